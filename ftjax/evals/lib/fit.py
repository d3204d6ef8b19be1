"""How well one number of a run predicts another: a fit over runs, and the agreement of their ranks.

    y ~ a + b x + c x^2 by least squares,  r2 = 1 - sum (y - fit)^2 / sum (y - mean y)^2
    spearman = the correlation of the ranks of x and y, equals having their mean rank

arXiv:2509.04259 fits forgetting over the divergence from the base so. R^2 of few points is high
whatever they are (1 of three): `n` stands beside it, and fewer than four have none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST = 4  # points: a parabola goes through any three


class Fit(NamedTuple):
    """Coefficients (a, b, c) of 1, x, x^2, what they explain, and the correlation of ranks."""

    coefficients: tuple[float, float, float]
    r2: float
    spearman: float
    n: int

    def __call__(self, x) -> np.ndarray:
        """Return the fitted values."""
        a, b, c = self.coefficients
        x = np.asarray(x, np.float64)
        return a + b * x + c * x * x


def quadratic(x: Sequence[float], y: Sequence[float]) -> Fit | None:
    """Fit a parabola; None of fewer than four points, or of values that are all the same.

    Raises:
      ValueError: x and y do not pair up, or hold what is no finite number.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not np.isfinite([x, y]).all():
        raise ValueError(
            f"fit: got {x.tolist()} and {y.tolist()}; expected finite numbers in pairs; leave out "
            "runs that diverged"
        )
    if len(x) < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    # Around their middle and in units of their spread: squares of small numbers lose digits.
    middle, spread = x.mean(), x.std()
    scaled = (x - middle) / spread
    design = np.stack([np.ones_like(scaled), scaled, scaled**2], 1)
    p, q, r = np.linalg.lstsq(design, y, rcond=None)[0]
    left = np.square(y - design @ [p, q, r]).sum()
    b, c = q / spread - 2 * r * middle / spread**2, r / spread**2
    a = p - q * middle / spread + r * middle**2 / spread**2
    r2 = float(1 - left / np.square(y - y.mean()).sum())
    return Fit(tuple(map(float, (a, b, c))), r2, spearman(x, y), len(x))


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Correlate the ranks of x and y, which are not all the same; 1 if both rise together."""
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values) -> np.ndarray:
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
