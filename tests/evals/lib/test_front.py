import math

import numpy as np
import pytest

from ftjax.evals.lib import front

RUN = front.Trajectory([0.0, 0.4, 0.2, 0.8], [0.0, 0.1, 0.2, 0.5])


def test_the_front_by_hand():
    points = [(1, 1), (3, 0), (0, 3), (2, 1), (0, 3), (0, 2), (1, 0)]
    assert front.front(points) == [2, 4, 3, 1]
    assert front.front([(1, 2)]) == [0]
    assert front.front([]) == []


def test_equal_in_one_is_dominated_by_better_in_the_other():
    assert front.front([(1, 1), (1, 2)]) == [1]
    assert front.front([(1, 1), (2, 1)]) == [1]


def test_hypervolume_by_hand():
    points = [(3, 1), (1, 3), (2, 2), (1, 1)]
    assert front.hypervolume(points, reference=(0, 0)) == 6
    assert front.hypervolume(points, reference=(1, 0)) == 3  # 2 by 1, and 1 by 1 above it
    assert front.hypervolume([(1, 1), (-1, 9)], reference=(0, 0)) == 1
    assert front.hypervolume([], reference=(0, 0)) == 0


def test_hypervolume_is_the_share_of_random_points():
    rng = np.random.default_rng(0)
    points, probes = rng.random((6, 2)), rng.random((200_000, 2))
    covered = (probes[:, None] < points).all(-1).any(-1).mean()
    assert front.hypervolume(points, reference=(0, 0)) == pytest.approx(covered, abs=0.005)


@pytest.mark.parametrize(
    ("target", "wanted"), [(-1, 0.0), (0.0, 0.0), (0.1, 0.025), (0.4, 0.1), (0.5, 0.35), (0.8, 0.5)]
)
def test_forgetting_at_the_first_crossing(target, wanted):
    # 0.4 is reached at once, though the run falls below it later; 0.5 lies between 0.2 and 0.8.
    assert front.forgetting_at(target, RUN) == pytest.approx(wanted)


def test_what_was_not_reached_is_no_number():
    found = front.forgetting_at(0.9, RUN)
    assert found == front.NotReached(0.9, 0.8)
    assert str(found) == "not reached (best 0.8 of 0.9)"
    with pytest.raises(TypeError):
        float(found)
    diverged = front.Trajectory([0.1, math.nan], [0.0, math.nan])
    assert front.forgetting_at(0.5, diverged) == front.NotReached(0.5, 0.1)


def test_the_mean_over_targets():
    assert front.mean_forgetting([0.5, 0.4], RUN) == pytest.approx((0.1 + 0.35) / 2)
    assert front.mean_forgetting([0.95, 0.9, 0.1], RUN) == front.NotReached(0.9, 0.8)


def test_methods_are_matched_each_at_its_best_rate():
    low, high = front.Trajectory([0, 1], [0, 0.1]), front.Trajectory([0, 1], [0, 0.9])
    short = front.Trajectory([0, 0.3], [0, 0.0])
    broken = front.Trajectory([0, 1], [0, math.nan])
    cells = {
        "full": {1e-4: short, 3e-4: low, 1e-3: high}, "lora": {1e-4: high, 1e-3: low},
        "none": {1e-4: short}, "lost": {1e-4: broken, 1e-3: short},
    }  # fmt: skip
    found = front.matched(cells, 0.5)
    assert found["full"] == front.Match(pytest.approx(0.05), 3e-4, False)
    assert found["lora"] == front.Match(pytest.approx(0.05), 1e-3, True)
    assert found["none"] == front.Match(front.NotReached(0.5, 0.3), None, False)
    assert found["lost"].forgetting == front.NotReached(0.5, 0.3)


def test_what_is_refused():
    with pytest.raises(ValueError, match="expected finite pairs"):
        front.front([(0, math.nan)])
    with pytest.raises(ValueError, match="expected finite pairs"):
        front.hypervolume([(0, 1, 2)], reference=(0, 0))
    with pytest.raises(ValueError, match="one of each per checkpoint"):
        front.forgetting_at(0, front.Trajectory([0, 1], [0]))
    with pytest.raises(ValueError, match="one of each per checkpoint"):
        front.forgetting_at(0, front.Trajectory([], []))
    with pytest.raises(ValueError, match="no run of 'full'"):
        front.matched({"full": {}}, 0.5)


def test_the_rate_is_chosen_among_those_that_reached_the_target():
    missed = front.NotReached(0.9, 0.4)
    assert front.choose_rate({1e-4: missed, 1e-3: 0.2, 1e-2: 0.5}, 0.9) == front.Match(
        0.2, 1e-3, False
    )
    assert front.choose_rate({1e-3: 0.2, 1e-2: 0.5}, 0.9).at_edge
    assert not front.choose_rate({1e-3: 0.2}, 0.9).at_edge
    assert front.choose_rate({1e-3: 0.2, 1e-2: math.nan}, 0.9).rate == 1e-3
    assert front.choose_rate({1e-3: missed}, 0.9).forgetting == missed
