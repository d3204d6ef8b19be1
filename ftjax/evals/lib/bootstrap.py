"""Confidence intervals by the paired bootstrap (Efron, 1979), over examples.

Before and after are measured on the same examples, so one resample takes the same examples of both:
what makes an example hard cancels in the difference, and the interval is far narrower than that of
two separate means.

    differences(nll.summary, before, after, seed=0)["nll"]   ->  Estimate(value, low, high, n)
    paired(nll.summary, before, after)["nll"]                ->  Paired(before, after, change)

Where the examples belong to tasks or to seeds of training, these vary too: `nested` has two levels.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
# Efron and Tibshirani (1993), section 13.3: at least 1000 for percentile intervals. One number for
# all that shows an interval, so that two readers of one run see the same.
RESAMPLES = 1000
# Indices drawn at once: 8 MB of each array.
_BLOCK = 2**20
_ROWS = "along_rows"  # the mark of a summary
# Metrics that are shares of examples, by the array of zeros and ones that they are the mean of.
SHARES = {"accuracy": "correct"}


class Estimate(NamedTuple):
    """A value, its confidence interval, and the number of examples behind it."""

    value: float
    low: float
    high: float
    n: int


class Paired(NamedTuple):
    """A metric before and after, and its change."""

    before: Estimate
    after: Estimate
    change: Estimate


def differences(summary: Callable, before: Arrays, after: Arrays, **options) -> dict[str, Estimate]:
    """Estimate summary(after) - summary(before) for every metric; arguments as for `paired`."""
    return {name: each.change for name, each in paired(summary, before, after, **options).items()}


def paired(
    summary: Callable, before: Arrays, after: Arrays, *, seed: int = 0, resamples: int = RESAMPLES,
    level: float = 0.95,
) -> dict[str, Paired]:  # fmt: skip
    """Estimate every metric of a summary before, after, and the difference.

    A share of examples (a metric that is the mean of zeros and ones of its own name) has Wilson's
    interval: where all or none are right, every resample is the same, and would claim certainty.

    Args:
      summary: {name: array [n]} -> {metric: float}, such as an evaluator's.
      before: per-example arrays.
      after: the same arrays later; row i of both is about the same example.
      seed: of the resampling.
      resamples: how many.
      level: coverage of the percentile interval.

    Raises:
      ValueError: the arrays do not pair up, or there are none.
    """
    n = _paired(before, after)
    values, draws = [summary(before), summary(after)], [[], []]
    many = _BLOCK // n if getattr(summary, _ROWS, False) else 0
    for index in _blocks(n, many, seed=seed, resamples=resamples):
        for own, arrays in zip(draws, (before, after), strict=True):
            own.append(summary(_take(arrays, index)))
    found = {}
    for name in values[1]:
        old, new = (np.hstack([np.float64(draw[name]) for draw in own]) for own in draws)
        sides = [
            Estimate(value[name], *(share(arrays, name, level) or interval(own, level=level)), n)
            for value, arrays, own in zip(values, (before, after), (old, new), strict=True)
        ]
        change = values[1][name] - values[0][name]
        found[name] = Paired(*sides, Estimate(change, *interval(new - old, level=level), n))
    return found


def share(arrays: Arrays, name: str, level: float) -> tuple[float, float] | None:
    """Return the interval of a metric that is a share of examples; None where it is another."""
    scores = arrays.get(SHARES.get(name, name))
    if scores is None or not np.isin(scores, (0, 1)).all():
        return None
    return wilson(float(np.sum(scores)), len(scores), level=level)


def wilson(hits: float, n: int, *, level: float) -> tuple[float, float]:
    """Return the score interval of a share (Wilson, 1927, JASA 22, 209)."""
    z, p = statistics.NormalDist().inv_cdf((1 + level) / 2), hits / n
    middle, wide = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + side) / (1 + z * z / n) for side in (-wide, wide))
    return max(low, 0.0), min(high, 1.0)  # but for rounding they lie inside


def nested(
    statistic: Callable[[Arrays], float], groups: Sequence[Arrays], *, seed: int = 0,
    resamples: int = 1000, level: float = 0.95,
) -> Estimate:  # fmt: skip
    """Estimate the mean over groups of a statistic of their examples, both drawn again.

    Groups are tasks, or seeds of training: each resample draws as many with replacement, and then
    the examples of each, which are its own. The interval speaks of other groups of that kind; with
    few of them it is too narrow, and with one it has no spread between groups at all.

    Args:
      statistic: per-example arrays of one group -> a number, macro averaged over groups. Before
        and after go into one mapping, so that pairs stay together.
      groups: per-example arrays {name: [n of the group]} of each group.

    Returns:
      (value, low, high, n), n the number of examples of all groups.

    Raises:
      ValueError: no groups, or a group whose arrays are empty or of several lengths.
    """
    sizes = [_paired(group, group) for group in groups]
    if not sizes:
        raise ValueError("bootstrap: got no groups; expected at least one task or seed")
    generator, draws = np.random.default_rng(seed), []
    for _ in range(resamples):
        chosen = generator.integers(len(groups), size=len(groups))
        draws.append(np.mean([statistic(_again(groups[i], generator, sizes[i])) for i in chosen]))
    value = np.mean([statistic(group) for group in groups])
    return Estimate(float(value), *interval(draws, level=level), sum(sizes))


def _again(group: Arrays, generator: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return _take(group, generator.integers(n, size=n))


def along_rows(summary: Callable) -> Callable:
    """Mark a summary that sums over the last axis: many resamples, one a row, are one call."""
    setattr(summary, _ROWS, True)
    return summary


def indices(n: int, *, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield `resamples` draws of n indices with replacement."""
    return _blocks(n, 0, seed=seed, resamples=resamples)


def _blocks(n: int, many: int, *, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield the same draws, `many` in the rows of each array; each by itself for 0."""
    generator = np.random.default_rng(seed)
    for done in range(0, resamples, many or 1):
        rows = (min(many, resamples - done),) if many else ()
        yield generator.integers(n, size=(*rows, n))


def interval(draws, *, level: float) -> tuple[float, float]:
    """Return the central interval that holds `level` of the draws."""
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(draws, np.float64), [tail, 1 - tail])
    return float(low), float(high)


def _take(arrays: Arrays, index: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[index] for name, values in arrays.items()}


def _paired(before: Arrays, after: Arrays) -> int:
    sizes = [{name: len(values) for name, values in each.items()} for each in (before, after)]
    if sizes[0] != sizes[1] or len(set(sizes[0].values())) != 1 or 0 in sizes[0].values():
        raise ValueError(
            f"bootstrap: got examples before {sizes[0]} and after {sizes[1]}; expected the same "
            "arrays of one length; evaluate both on the same examples"
        )
    return next(iter(sizes[0].values()))
