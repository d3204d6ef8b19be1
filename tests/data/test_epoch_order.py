import collections

import numpy as np
import pytest

from ftjax.data import epoch_order


def order(counts, shares, epoch=0, *, seed=0, shuffle=True):
    return epoch_order.order(counts, shares, seed=seed, epoch=epoch, shuffle=shuffle).tolist()


def test_one_part_is_a_new_permutation_every_epoch():
    first, second = order([50], [1.0]), order([50], [1.0], 1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != order([50], [1.0], seed=1)
    assert first == order([50], [1.0])


def test_passes_differ_in_themselves_and_in_how_parts_are_mixed():
    """Each of three draws takes part in an epoch's order: of a part, of the mixture, of rows."""
    stream = lambda start, stop: epoch_order._stream(
        50, start, stop, seed=0, part=0, shuffle=True
    ).tolist()
    assert sorted(stream(0, 50)) == sorted(stream(50, 100)) == list(range(50))
    assert stream(0, 50) != stream(50, 100)
    of_parts = lambda epoch: [i >= 20 for i in order([20, 20], [0.5, 0.5], epoch)]
    assert of_parts(0) != of_parts(1)
    rows = [epoch_order.permutation(20, seed=0, epoch=epoch).tolist() for epoch in range(2)]
    assert rows[0] != rows[1]


def test_without_shuffling_a_part_keeps_its_order():
    assert order([5], [1.0], 3, shuffle=False) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shuffle", [True, False])
def test_shares_hold_and_no_example_is_left_behind(shuffle):
    """Part 1 is drawn 0.1/0.9 as often as part 0, its 7 examples equally often."""
    counts, shares, epochs = [60, 7], [0.9, 0.1], 21
    drawn = np.concatenate([order(counts, shares, e, shuffle=shuffle) for e in range(epochs)])
    seen = collections.Counter(drawn.tolist())
    assert {seen[i] for i in range(60)} == {epochs}
    small = [seen[60 + i] for i in range(7)]
    assert sum(small) == int(epochs * 60 * 0.1 / 0.9)
    assert max(small) - min(small) <= 1


def test_a_large_part_goes_on_where_the_last_epoch_stopped():
    counts, shares = [10, 1000], [0.5, 0.5]
    seen = [i for e in range(100) for i in order(counts, shares, e) if i >= 10]
    assert sorted(seen) == list(range(10, 1010))


def test_a_share_below_one_example_an_epoch_is_still_drawn():
    drawn = [i for e in range(40) for i in order([10, 3], [0.99, 0.01], e)]
    assert drawn.count(10) + drawn.count(11) + drawn.count(12) == 4


def test_parts_are_spread_evenly_without_shuffling():
    drawn = np.array(order([90, 10], [0.9, 0.1], shuffle=False))
    assert [int((part >= 90).sum()) for part in np.split(drawn, 10)] == [1] * 10
