"""Arms compared pairwise on the same items: bootstrap over items and seeds, Holm's correction.

One resample draws the items once for all arms, so that what makes an item hard cancels, and for
each arm as many of its seeds as it has, so that a lucky training run counts as luck:

    mean_arm = sum_s v_s sum_i w_i score[s, i]        w, v: multinomial counts over their numbers

Items of one cluster (questions about the same fact) are drawn together, w being the counts of
clusters over the number of items that these have (arXiv:2411.00640): each by itself they would pass
for more evidence than they are.

The p-value of a difference is twice the smaller share of resamples on one side of 0, counted with
the observation itself (Davison and Hinkley, 1997, section 4.2). Holm (1979) multiplies the i-th
smallest of m p-values by m - i (i from 0) and lets none be smaller than one before it. An arm with
one seed has no spread between seeds, and with three the spread is known badly.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.evals.lib import bootstrap

# Of 8 arms, 28 pairs: the smallest p, 2 / 10,001, passes Holm at .05; of 1,000 none would.
RESAMPLES = 10_000
LEVEL = 0.95
BLOCK = 2**24  # counts of items in memory at a time, 128 MiB

Scores = Mapping[str, np.ndarray]  # arm -> [seeds, items]


class Difference(NamedTuple):
    """Mean of the first arm less that of the second, its interval, p and Holm's p."""

    value: float
    low: float
    high: float
    p: float
    adjusted_p: float

    @property
    def is_resolved(self) -> bool:
        """Whether the interval excludes 0 and Holm's p agrees."""
        return (self.low > 0 or self.high < 0) and self.adjusted_p < 1 - LEVEL


def draws(
    scores: Scores, *, seed: int, resamples: int = RESAMPLES, clusters: Sequence[int] | None = None
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the resampled means of every arm, [resamples].

    clusters: of each item; by default every item is one of its own.

    Raises:
      ValueError: no items, or arms with different ones.
    """
    n = _items(scores)
    cluster_n = np.unique(range(n) if clusters is None else clusters, return_inverse=True)[1]
    generator = np.random.default_rng(seed)
    # Keyed by its name, the draws of an arm do not depend on which others there are.
    of = lambda arm: np.random.default_rng([seed, zlib.crc32(arm.encode())])
    v = {arm: _shares(of(arm), len(own), resamples) for arm, own in scores.items()}
    block, found = max(1, BLOCK // n), {arm: [] for arm in scores}
    for start in range(0, resamples, block):
        w = _shares(generator, cluster_n.max() + 1, min(block, resamples - start))[:, cluster_n]
        for arm, own in scores.items():
            rows = slice(start, start + len(w))
            sums = w @ np.asarray(own, np.float64).T * v[arm][rows]
            found[arm].append(sums.sum(1) / w.sum(1))
    return {arm: np.concatenate(parts) for arm, parts in found.items()}


def _shares(generator: np.random.Generator, n: int, size: int) -> np.ndarray:
    return generator.multinomial(n, [1 / n] * n, size=size) / n


def _items(scores: Scores) -> int:
    sizes = {arm: np.shape(own) for arm, own in scores.items()}
    if len({size[1:] for size in sizes.values()}) != 1 or any(0 in s for s in sizes.values()):
        raise ValueError(
            f"scores: got {sizes} of [seeds, items]; expected one seed at least and the same items "
            "for every arm"
        )
    return next(iter(sizes.values()))[1]


def estimates(scores: Scores, found: Mapping[str, np.ndarray]) -> dict[str, bootstrap.Estimate]:
    """Return the mean of every arm with its interval; found: of `draws`."""
    n = _items(scores)
    return {
        arm: bootstrap.Estimate(
            float(np.mean(own)), *bootstrap.interval(found[arm], level=LEVEL), n
        )
        for arm, own in scores.items()
    }


def differences(
    scores: Scores, found: Mapping[str, np.ndarray]
) -> dict[tuple[str, str], Difference]:  # fmt: skip
    """Compare every pair of arms (a before b), a less b; found: of `draws`."""
    arms = list(scores)
    pairs = [(a, b) for i, a in enumerate(arms) for b in arms[i + 1 :]]
    p = [p_value(found[a] - found[b]) for a, b in pairs]
    result = {}
    for (a, b), own, adjusted in zip(pairs, p, holm(p), strict=True):
        value = float(np.mean(scores[a]) - np.mean(scores[b]))
        low, high = bootstrap.interval(found[a] - found[b], level=LEVEL)
        result[a, b] = Difference(value, low, high, own, adjusted)
    return result


def p_value(changes: np.ndarray) -> float:
    """Return the two-sided p-value of resampled differences."""
    side = min((changes <= 0).sum(), (changes >= 0).sum())
    return float(min(1.0, 2 * (1 + side) / (1 + len(changes))))


def holm(p: list[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given."""
    adjusted, largest = [0.0] * len(p), 0.0
    for i, place in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, (len(p) - i) * p[place]))
        adjusted[place] = largest
    return adjusted


def is_worse(pairs: Mapping[tuple[str, str], Difference], arm: str, than: str) -> bool:
    """Return whether an arm is worse than another, by more than chance."""
    if arm == than:
        return False
    if (arm, than) in pairs:
        return pairs[arm, than].is_resolved and pairs[arm, than].value < 0
    return pairs[than, arm].is_resolved and pairs[than, arm].value > 0
