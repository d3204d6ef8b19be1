"""What keys do to a metric: axes by hand, and shares of the variance in closed form."""

import numpy as np
import pytest

from ftjax.launch.lib import effects


def test_numbers_far_apart_lie_on_a_log_scale():
    own = effects.axis("lr", [1e-3, 1e-2, 1e-3, 3e-3])
    assert own.is_log
    assert own.places == pytest.approx(np.log10([1e-3, 1e-2, 1e-3, 3e-3]))
    assert [text for _, text in own.ticks] == ["0.001", "0.003", "0.01"]
    assert own.level.tolist() == [0, 2, 0, 1]
    assert not effects.axis("rank", [4, 16]).is_log
    assert not effects.axis("beta", [0.0, 100.0]).is_log


def test_words_lie_side_by_side_as_they_come():
    own = effects.axis("where", ["mlp", ("a", "b"), "mlp", None, True])
    assert own.places.tolist() == [0, 1, 0, 2, 3]
    assert [text for _, text in own.ticks] == ["mlp", "['a', 'b']", "None", "True"]


def test_keys_that_tell_the_same_jobs_apart_are_one_axis():
    jobs = [dict(rank=r, alpha=2 * r, seed=s, same=1) for r in (8, 4) for s in (0, 1)]
    assert [own.name for own in effects.axes_of(jobs)] == ["rank, alpha", "seed"]
    # One that falls where the other rises tells the same apart.
    assert len(effects.axes_of([dict(a=n, b=-n) for n in range(3)])) == 1


def test_a_share_is_kelleys_epsilon_squared():
    values = [1.0, 3.0, 5.0, 7.0]  # means 2 and 6, 2 + 2 inside, 20 in all
    own = effects.axis("key", ["a", "a", "b", "b"])
    assert effects.share(own, values) == pytest.approx(1 - (4 / 2) / (20 / 3))
    other = effects.axis("key", ["a", "b", "a", "b"])  # means 3 and 5: less than chance explains
    assert effects.share(other, values) == 0.0
    assert effects.share(effects.axis("key", [1, 1, 2, 2]), [1.0, 1.0, 2.0, 2.0]) == 1.0


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        ([1, 2, 2], [1.0, 2.0, 3.0]),  # too few
        ([1, 1, 2, 2], [1.0, 1.0, 1.0, 1.0]),  # nothing to explain
        ([1, 1, 1, 1], [1.0, 2.0, 3.0, 4.0]),  # nothing that explains
    ],
)
def test_without_numbers_there_is_no_share(keys, values):
    assert effects.share(effects.axis("key", keys), values) is None


def test_where_most_values_differ_neighbours_are_grouped():
    numbers = np.random.default_rng(0).permutation(np.geomspace(1e-4, 1e-1, 16))
    own = effects.axis("lr", numbers.tolist())
    assert np.bincount(effects.groups(own)).tolist() == [4, 4, 4, 4]
    assert effects.share(own, own.places) > 0.9
    noise = np.random.default_rng(1).normal(size=(200, 16))
    assert np.mean([effects.share(own, each) for each in noise]) < 0.12  # of no effect at all
