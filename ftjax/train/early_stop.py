"""Stop a run whose evaluation has not improved for a while.

stop = EarlyStop(metric="eval/choice/nll", patience=3)
stop.see(row)               # of each evaluation, the one before the first step among them
stop.reason                 # "" until `patience` of them in a row were no better than the best
"""

import math
from collections.abc import Mapping

from ftjax.core.typed import Count
from ftjax.evals.lib import retention

STOPPED = "stopped early"  # how such a run ends, before the reason
ENDED = ("done", "data ended", STOPPED)


def has_ended(stopped: str) -> bool:
    """Return whether there is nothing left to train in a run that stopped so."""
    return stopped.startswith(ENDED)


class EarlyStop:
    """Looks at one metric; whether less of it is better is known by its name."""

    def __init__(self, *, metric: str, patience: Count):
        """Look at `metric`, a name in rows of metrics.jsonl; ValueError where none is known."""
        self.metric, self._patience = metric, patience
        self._sign = retention.direction(metric.rsplit("/", 1)[-1])
        self._best: float | None = None
        self._worse = 0

    def see(self, row: Mapping) -> None:
        """Take a row; one without the metric says nothing."""
        value = row.get(self.metric)
        if value is None:
            return
        # A NaN is no better than anything: it counts as worse.
        better = math.isfinite(value) and (
            self._best is None or self._sign * value > self._sign * self._best
        )
        self._best, self._worse = (value, 0) if better else (self._best, self._worse + 1)

    @property
    def reason(self) -> str:
        """Why to stop; empty while there is no reason."""
        if self._worse < self._patience:
            return ""
        best = "nothing finite" if self._best is None else f"{self._best:.4g}"
        return f"{self.metric} was no better than {best} in {self._worse} evaluations"

    def dump(self) -> dict:
        """Return what `restore` needs, for JSON."""
        return {"best": self._best, "worse": self._worse}

    def restore(self, saved: Mapping) -> None:
        """Go on from what `dump` gave."""
        self._best, self._worse = saved["best"], saved["worse"]
