"""Confidence intervals by the paired bootstrap (Efron, 1979), over examples.

Before and after are measured on the same examples, so one resample takes the same examples of both:
what makes an example hard cancels in the difference, and the interval is far narrower than that of
two separate means.

    differences(nll.summary, before, after, seed=0)["nll"]   ->  Estimate(value, low, high, n)

Where the examples belong to tasks or to seeds of training, these vary too: `nested` has two levels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
# Efron and Tibshirani (1993), section 13.3: at least 1000 for percentile intervals. One number for
# all that shows an interval, so that two readers of one run see the same.
RESAMPLES = 1000


class Estimate(NamedTuple):
    """A value, its confidence interval, and the number of examples behind it."""

    value: float
    low: float
    high: float
    n: int


def differences(
    summary: Callable, before: Arrays, after: Arrays, *, seed: int = 0, resamples: int = RESAMPLES,
    level: float = 0.95,
) -> dict[str, Estimate]:  # fmt: skip
    """Estimate summary(after) - summary(before) for every metric of the summary.

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
    value = _minus(summary(after), summary(before))
    draws = [
        _minus(summary(_take(after, index)), summary(_take(before, index)))
        for index in indices(n, seed=seed, resamples=resamples)
    ]
    return {
        name: Estimate(value[name], *interval([draw[name] for draw in draws], level=level), n)
        for name in value
    }


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


def indices(n: int, *, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield `resamples` draws of n indices with replacement."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(n, size=n)


def interval(draws, *, level: float) -> tuple[float, float]:
    """Return the central interval that holds `level` of the draws."""
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(draws, np.float64), [tail, 1 - tail])
    return float(low), float(high)


def _minus(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}


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
