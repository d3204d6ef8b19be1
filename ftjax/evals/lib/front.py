"""What was learned against what was forgotten: fronts, and comparisons at a matched score.

A point is (learning, retention), both such that more is better. A trajectory is one run's
checkpoints in the order of time: learning (more is better) and forgetting (less is better). Methods
are compared where they have learned equally much, each at its best learning rate:

    forgetting_at(target)    forgetting where the trajectory first reaches the target
    matched(cells, target)   the same of every method, over a sweep of its rates

A target that was never reached has no forgetting: the value is a `NotReached`, and no number.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Trajectory(NamedTuple):
    """Scores of one run's checkpoints [n]: learning, up, and forgetting, down."""

    learning: Sequence[float]
    forgetting: Sequence[float]


@dataclasses.dataclass(frozen=True)
class NotReached:
    """What stands where a number would, when the target was missed; `best` is what was reached."""

    target: float
    best: float

    def __str__(self) -> str:
        """Write it for a table."""
        return f"not reached (best {self.best:.3g} of {self.target:.3g})"


@dataclasses.dataclass(frozen=True)
class Match:
    """A method at the target: its forgetting, or NotReached, and the rate that it had it at.

    at_edge: the rate is the lowest or highest of the sweep, so that a better one may lie outside.
    """

    forgetting: float | NotReached
    rate: float | None
    at_edge: bool


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """List the points that no other one dominates, by growing learning; equals are all listed.

    A point dominates another that it is no worse than in both, and better than in one.
    """
    found = _points(points)
    worse = (found[:, None] <= found).all(-1) & (found[:, None] < found).any(-1)
    kept = np.flatnonzero(~worse.any(1))
    return [int(i) for i in kept[np.argsort(found[kept, 0], kind="stable")]]


def hypervolume(
    points: Sequence[tuple[float, float]], *, reference: tuple[float, float]
) -> float:  # fmt: skip
    """Compute the area that the points dominate above the reference; up.

    reference: the worst of both axes, such as (the base's score, 0); a point that is not above it
      in both adds nothing. Areas with different references do not compare.
    """
    found = _points(points) - np.asarray(reference, np.float64)
    found = found[(found > 0).all(1)]
    area, height = 0.0, 0.0
    for x, y in sorted(found.tolist(), reverse=True):
        area += x * max(y - height, 0.0)
        height = max(height, y)
    return area


def forgetting_at(target: float, trajectory: Trajectory) -> float | NotReached:
    """Interpolate the forgetting of a run to where its learning first reaches the target; down.

    Linear between the checkpoint that reaches it and the one before; of a first checkpoint that is
    already there, its own value. What the run unlearns later does not count.
    """
    learning, forgetting = _trajectory(trajectory)
    reached = np.flatnonzero(learning >= target)
    if not len(reached):
        return NotReached(float(target), float(learning.max()))
    i = int(reached[0])
    if i == 0:
        return float(forgetting[0])
    part = (target - learning[i - 1]) / (learning[i] - learning[i - 1])
    return float(forgetting[i - 1] + part * (forgetting[i] - forgetting[i - 1]))


def mean_forgetting(
    targets: Sequence[float], trajectory: Trajectory
) -> float | NotReached:  # fmt: skip
    """Average `forgetting_at` over targets; NotReached by the lowest of those that were missed."""
    found = [forgetting_at(target, trajectory) for target in sorted(targets)]
    missed = [value for value in found if isinstance(value, NotReached)]
    return missed[0] if missed else float(np.mean(found))


def matched(
    cells: Mapping[str, Mapping[float, Trajectory]], target: float
) -> dict[str, Match]:  # fmt: skip
    """Compare methods at one score: each at that rate of its sweep which forgets least there.

    Args:
      cells: method -> learning rate -> trajectory; a run that diverged may hold NaN.
      target: of learning, the same for all.

    Raises:
      ValueError: no rate of a method, or a trajectory that is empty or does not pair up.
    """
    return {method: _match(method, runs, target) for method, runs in cells.items()}


def _match(method: str, runs: Mapping[float, Trajectory], target: float) -> Match:
    if not runs:
        raise ValueError(f"front: got no run of {method!r}; expected a sweep of its rates")
    return choose_rate({rate: forgetting_at(target, run) for rate, run in runs.items()}, target)


def choose_rate(found: Mapping[float, float | NotReached], target: float) -> Match:
    """Choose the rate that forgets least at the target; found: forgetting there, by rate."""
    numbers = {
        rate: value
        for rate, value in found.items()
        if not isinstance(value, NotReached) and math.isfinite(value)
    }
    if not numbers:
        best = [value.best for value in found.values() if isinstance(value, NotReached)]
        return Match(NotReached(float(target), max(best, default=math.nan)), None, False)
    rate = min(numbers, key=numbers.get)
    is_edge = len(found) > 1 and rate in (min(found), max(found))  # one rate is no sweep
    return Match(numbers[rate], rate, is_edge)


def _points(points) -> np.ndarray:
    found = np.asarray(points, np.float64) if len(points) else np.zeros((0, 2))
    if found.ndim != 2 or found.shape[1] != 2 or not np.isfinite(found).all():
        raise ValueError(
            f"front: got points {found.tolist()}; expected finite pairs (learning, retention); "
            "leave out runs that diverged"
        )
    return found


def _trajectory(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    learning, forgetting = (np.asarray(each, np.float64) for each in trajectory)
    if learning.ndim != 1 or learning.shape != forgetting.shape or not len(learning):
        raise ValueError(
            f"front: got {learning.shape} scores of learning and {forgetting.shape} of forgetting; "
            "expected one of each per checkpoint"
        )
    # NaN reaches no target; as the best score it must not hide the others.
    return np.where(np.isnan(learning), -np.inf, learning), forgetting
