"""Successive halving: of runs that are trained together, the worse end at some evaluations.

    halving = Halving(metric="eval/choice/nll", rungs=(100, 200), keep=0.5)
    seen = Seen(halving.metric); seen.see(row)             of each run, every evaluation
    halving.worse({index: seen.value}, step=100, of=8)     those that end there

Of 8 members 4 pass step 100 and 2 pass step 200: most of the steps are given to those that promise
most (Jamieson and Talwalkar, AISTATS 2016). A run that would have been better late is lost.
"""

import math
from collections.abc import Mapping, Sequence

from ftjax.core.typed import Count
from ftjax.evals.lib import retention


class Halving:
    """Decides by one metric; whether less of it is better is known by its name."""

    def __init__(self, *, metric: str, rungs: Sequence[Count], keep: float = 0.5):
        """Keep the part `keep` of all runs at each step of `rungs`, and one run at least.

        Raises:
          ValueError: the rungs do not increase, `keep` is no part, or the metric is not known.
        """
        self.metric, self.rungs = metric, tuple(rungs)
        self._keep, self._sign = keep, retention.direction(metric.rsplit("/", 1)[-1])
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"halving.rungs: got {self.rungs}; expected steps that increase")
        if not 0 < keep < 1:
            raise ValueError(f"halving.keep: got {keep}; expected a part, above 0 and below 1")

    def worse(self, values: Mapping[int, float | None], *, step: int, of: int) -> list[int]:
        """List the runs that end at a step, by the values of those that still train.

        of: runs in the beginning. By that number and not by those that are left, so that a process
        that is killed between two of these ends decides the same when it goes on.
        """
        if step not in self.rungs:
            return []
        kept = max(1, math.ceil(of * self._keep ** (self.rungs.index(step) + 1)))
        best = sorted(values, key=lambda index: (self._cost(values[index]), index))
        return sorted(best[kept:])

    def _cost(self, value: float | None) -> float:
        # What is no number is worse than any.
        return math.inf if value is None or not math.isfinite(value) else -self._sign * value

    def reason(self, step: int, value: float | None) -> str:
        """Write why a run ended at a step."""
        shown = "nothing" if value is None else f"{value:.4g}"
        return f"{self.metric} was {shown} at step {step}, not among the best {self._keep:.0%}"


class Seen:
    """The newest value of a metric of one run."""

    def __init__(self, metric: str):
        """Look at `metric`, a name in rows of metrics.jsonl."""
        self._metric, self.value = metric, None

    def see(self, row: Mapping) -> None:
        """Take a row; one without the metric says nothing."""
        self.value = row.get(self._metric, self.value)

    def dump(self) -> dict:
        """Return what `restore` needs, for JSON."""
        return {"value": self.value}

    def restore(self, saved: Mapping) -> None:
        """Go on from what `dump` gave."""
        self.value = saved["value"]
