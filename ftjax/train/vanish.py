"""Notice a gradient that is gone: the loss stays finite, the run goes on, and nothing is learned.

A learning rate far too large does that: the weights end where every logit is the same (or the
largest wins outright), the loss is a constant, and its gradient exactly zero from then on.
"""

import warnings

SHARE = 1e-7  # of the largest norm so far: below it float32 adds nothing of one to the other
PATIENCE = 10  # steps in a row before it is said; groups of equal rewards are zero now and then


class Vanish:
    """Looks at the norm of every step's gradient."""

    def __init__(self, saved: dict | None = None):
        """Start empty, or from what `dump` gave."""
        saved = saved or {}
        self.largest: float = saved.get("largest", 0.0)
        self.since: int | None = saved.get("since")
        self._told: bool = saved.get("told", False)

    def see(self, step: int, norm: float) -> None:
        """Take the norm of a step; warn once it has been gone for a while."""
        self.largest = max(self.largest, norm)
        # Not <: where all norms so far are zero, so is the largest.
        gone = norm <= SHARE * self.largest
        self.since = (self.since or step) if gone else None
        self._told = self._told and gone
        self.warn(step, min_steps=PATIENCE)

    def warn(self, step: int, *, min_steps: int = 2) -> int | None:
        """Warn where it has been gone for `min_steps`; return since which, None where it is not.

        At the end of a run two steps are enough.
        """
        if self.since is None or step - self.since + 1 < min_steps:
            return None
        if not self._told:
            self._told = True
            warnings.warn(
                f"loop: the gradient is zero since step {self.since} (its norm was up to "
                f"{self.largest:.3g}): nothing is learned any more; lower optim.learning_rate and "
                "start from a checkpoint before that step",
                RuntimeWarning,
                stacklevel=2,
            )
        return self.since

    def dump(self) -> dict:
        """Return what `Vanish(saved)` needs, for JSON."""
        return {"largest": self.largest, "since": self.since, "told": self._told}
