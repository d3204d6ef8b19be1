"""Metrics between two logged rows, added up on the host.

Every `Mean` adds total and weight, so its row holds the exact mean over all tokens. A plain scalar
is a mean over steps; the learning rate alone keeps its last value. The window travels in the
checkpoint: a resumed run logs the same numbers as one that never stopped.
"""

import numpy as np

from ftjax.core.mean import Mean

# The mean rate of a window would be one that no step had.
LATEST = ("learning_rate",)


class Window:
    """Sums since the last row."""

    def __init__(self, saved: dict | None = None):
        """Start empty, or from what `dump` gave."""
        saved = saved or {}
        # Python's float64: float32 counts tokens exactly up to 16.8 million only.
        self._sums: dict[str, list[float]] = {k: list(v) for k, v in saved.get("sums", {}).items()}
        self._last: dict[str, float] = dict(saved.get("last", {}))

    def add(self, metrics: dict) -> None:
        """Add the host values of one step."""
        for name, value in metrics.items():
            if isinstance(value, Mean):
                total, weight = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = [total + float(value.total), weight + float(value.weight)]
            elif name in LATEST:
                self._last[name] = np.asarray(value).item()
            else:
                total, count = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = [total + np.asarray(value).item(), count + 1.0]

    def take(self) -> dict[str, float]:
        """Return the values by name and start anew."""
        # Where nothing was counted the total is 0 too, and so is what is logged.
        means = {name: total / (weight or 1.0) for name, (total, weight) in self._sums.items()}
        row = means | self._last
        self._sums, self._last = {}, {}
        return row

    def dump(self) -> dict:
        """Return what `Window(saved)` needs, for JSON."""
        return {"sums": self._sums, "last": self._last}
