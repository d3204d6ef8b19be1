import math

import pytest

from ftjax.launch.lib import space


def test_a_grid_is_every_combination_in_order():
    assert space.grid({"a.b": (1, 2), "c": range(2)}) == [
        {"a.b": 1, "c": 0}, {"a.b": 1, "c": 1}, {"a.b": 2, "c": 0}, {"a.b": 2, "c": 1},
    ]  # fmt: skip
    with pytest.raises(ValueError, match="grid: got no values of c;"):
        space.grid({"a.b": (1, 2), "c": ()})


def test_samples_repeat_grow_and_do_not_depend_on_other_keys():
    own = {"rank": (2, 4, 8), "rate": space.log_uniform(1e-5, 1e-2), "decay": space.uniform(0, 1)}
    found = space.sample(20, own, seed=3)
    assert space.sample(5, own, seed=3) == found[:5]
    assert space.sample(20, own, seed=4) != found
    assert [row["rate"] for row in space.sample(20, {"rate": own["rate"]}, seed=3)] == [
        row["rate"] for row in found
    ]
    assert {row["rank"] for row in found} == {2, 4, 8}
    assert all(0 <= row["decay"] <= 1 for row in found)


def test_logarithms_are_even():
    rates = [r["x"] for r in space.sample(400, {"x": space.log_uniform(1e-5, 1e-1)})]
    assert min(rates) >= 1e-5
    assert max(rates) <= 1e-1
    middle = sum(rate < 1e-3 for rate in rates) / len(rates)
    assert middle == pytest.approx(0.5, abs=0.1)
    assert all(rate == float(f"{rate:.3g}") for rate in rates)
    assert len({math.floor(math.log10(rate)) for rate in rates}) == 4
    with pytest.raises(ValueError, match="log_uniform: got 0 and 1; expected positive"):
        space.log_uniform(0, 1)


def test_numbers_keep_their_digits_and_stay_inside():
    own = space.log_uniform(1.2345e-5, 1e-2)
    assert own.at(0.0) == 1.2345e-5  # 1.23e-5 would be outside
    assert space.uniform(2, 3).at(0.5) == 2.5
    for wrong in (space.uniform, space.log_uniform):
        with pytest.raises(ValueError, match="got 3 and 2; expected the lower bound first"):
            wrong(3, 2)
