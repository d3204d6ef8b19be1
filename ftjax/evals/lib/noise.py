"""How much a number moves when nothing is changed but the seed, and what it hides.

    floor = t(.975, n-1) s sqrt(2)       n re-runs of one configuration with standard deviation s

is what the difference of two runs of that one configuration stays below in 95 % of cases, for
scores that are normal. A difference below it is not resolved: it may be the seed's alone. Unlike
the range, which grows with n (1.7 s at 3 runs, 3.1 s at 10), it does not depend on how often the
configuration was run, but for being better known. The difference of two means over m runs each has
a floor that is sqrt(m) times lower.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

NOT_RESOLVED = "not resolved"


class Floor(NamedTuple):
    """The noise floor of a difference, the range of the re-runs, and their number."""

    value: float
    range: float
    n: int


def floor(scores: Sequence[float], *, level: float = 0.95, runs: int = 1) -> Floor:
    """Compute the noise floor from the scores of re-runs that differ in their seeds alone.

    runs: over how many of them each of the compared numbers is a mean.

    Raises:
      ValueError: fewer than two scores, or one that is no finite number: a re-run that diverged
        has no place among those that did not.
    """
    found = np.asarray(scores, np.float64)
    n = len(found)
    if n < 2 or not np.isfinite(found).all():
        raise ValueError(
            f"noise floor: got the scores {found.tolist()}; expected at least two finite ones, of "
            "one configuration; run it again with another seed"
        )
    quantile = float(special.stdtrit(n - 1, (1 + level) / 2))
    value = quantile * float(found.std(ddof=1)) * math.sqrt(2 / runs)
    return Floor(value, float(np.ptp(found)), n)


def is_resolved(difference: float, below: Floor) -> bool:
    """Return whether a difference of two runs is larger than the floor; one that is NaN is not."""
    return abs(difference) > below.value


def verdict(difference: float, below: Floor, *, digits: int = 3) -> str:
    """Write a difference, or that it is not resolved beside which floor."""
    if is_resolved(difference, below):
        return f"{difference:+.{digits}f}"
    return f"{NOT_RESOLVED} (|{difference:+.{digits}f}| <= {below.value:.{digits}f}, n={below.n})"
