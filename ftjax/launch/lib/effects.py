"""What the keys of a sweep do to a metric of its jobs.

    axes = axes_of([{"optim.learning_rate": 1e-3, ...}, ...])     # a mapping of keys for each job
    share(axes[0], values)                                        # of the variance of the metric

The share that a key explains is Kelley's epsilon squared (1935), a first-order effect:

    1 - (within / (n - k)) / (total / (n - 1)),  at least 0

with squares of n values around the means of k groups and around the mean of all. What chance alone
explains is taken off. Groups are the values of the key; where most jobs have their own, as in a
random search, neighbours are grouped.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ftjax.core import files

GROUPS = 4  # of neighbours, where most values differ
FEWEST = 4  # jobs, for a share
WIDE = 10.0  # a ratio of the largest to the smallest value from which on they lie on a log scale


class Axis(NamedTuple):
    """A key, or several that always change together; values: of each job, at places on a scale.

    ticks: places that have a name. is_log: places are logarithms. level: which value, from 0 on.
    """

    name: str
    places: np.ndarray  # [jobs]
    ticks: Sequence[tuple[float, str]]
    level: np.ndarray  # [jobs], of places that grow
    is_log: bool = False


def axes_of(jobs: Sequence[Mapping[str, Any]]) -> list[Axis]:
    """Make an axis of every key in which jobs differ; keys that tell the same apart are one."""
    found: dict[tuple, list[Axis]] = {}
    for key in dict.fromkeys(key for job in jobs for key in job):
        own = axis(key, [job.get(key) for job in jobs])
        order = dict.fromkeys(own.level)
        if len(order) > 1:
            # Named by the first job that has each value: 8, 8, 4 and 2, 2, 1 are one partition.
            first = {level: n for n, level in enumerate(order)}
            found.setdefault(tuple(first[level] for level in own.level), []).append(own)
    return [own[0]._replace(name=", ".join(each.name for each in own)) for own in found.values()]


def axis(name: str, values: Sequence[Any]) -> Axis:
    """Place the values of a key: numbers on their scale, others side by side as they come."""
    texts = [_text(value) for value in values]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        numbers = np.array(values, float)
        is_log = bool(numbers.min() > 0 and numbers.max() / numbers.min() >= WIDE)
        places = np.log10(numbers) if is_log else numbers
    else:
        order = list(dict.fromkeys(texts))
        places, is_log = np.array([order.index(text) for text in texts], float), False
    known, level = np.unique(places, return_inverse=True)
    ticks = [(float(at), texts[int(np.flatnonzero(places == at)[0])]) for at in known]
    return Axis(name, places, ticks, level, is_log)


def _text(value: Any) -> str:
    value = files.plain(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def groups(own: Axis) -> np.ndarray:
    """Return the group [jobs] of each job: its value, or neighbours where most are alone."""
    n, k = len(own.level), len(own.ticks)
    if k <= n / 2:
        return own.level
    order = np.argsort(np.argsort(own.places, kind="stable"), kind="stable")
    return order * min(GROUPS, max(n // 2, 1)) // n


def share(own: Axis, values: Sequence[float]) -> float | None:
    """Return the share of the variance of `values` [jobs] that a key explains; None of too few."""
    values, group = np.asarray(values, float), groups(own)
    n, k = len(values), len(np.unique(group))
    total = np.square(values - values.mean()).sum()
    if n < FEWEST or not 1 < k < n or total == 0:
        return None
    inside = sum(np.square(values[group == g] - values[group == g].mean()).sum() for g in range(k))
    return float(max(1 - (inside / (n - k)) / (total / (n - 1)), 0.0))
