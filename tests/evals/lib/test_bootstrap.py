import functools

import numpy as np
import pytest

from ftjax.evals import drift as of_drift
from ftjax.evals import nll
from ftjax.evals.lib import bootstrap, drift

MEAN = lambda arrays: {"x": float(arrays["x"].mean())}


def test_a_constant_shift_is_certain():
    x = np.random.default_rng(0).normal(size=50)
    found = bootstrap.differences(MEAN, {"x": x}, {"x": x + 0.25})["x"]
    assert found == pytest.approx((0.25, 0.25, 0.25, 50))


def test_pairs_stay_together():
    # Hard and easy examples differ by far more than before and after do.
    rng = np.random.default_rng(1)
    before = rng.normal(scale=100, size=200)
    after = before + rng.normal(0.5, 0.1, size=200)
    found = bootstrap.differences(MEAN, {"x": before}, {"x": after})["x"]
    assert found.value == pytest.approx(0.5, abs=0.03)
    assert 0.45 < found.low < found.value < found.high < 0.55


def test_the_interval_is_the_normal_one_for_many_examples():
    x = np.random.default_rng(2).normal(1.0, 2.0, size=400)
    found = bootstrap.differences(MEAN, {"x": 0 * x}, {"x": x}, resamples=4000)["x"]
    half = 1.96 * x.std() / np.sqrt(len(x))
    assert found.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.1 * half)


def test_coverage():
    rng, hits, trials = np.random.default_rng(3), 0, 200
    for trial in range(trials):
        x = rng.normal(0.3, 1.0, size=60)
        found = bootstrap.differences(
            MEAN, {"x": 0 * x}, {"x": x}, resamples=200, seed=trial, level=0.9
        )["x"]
        hits += found.low <= 0.3 <= found.high
    assert 0.83 < hits / trials < 0.96


def test_any_summary_of_several_arrays():
    ratio = lambda a: {"ratio": a["top"].sum() / a["bottom"].sum(), "n": float(len(a["top"]))}
    top, bottom = np.array([1.0, 2.0, 30.0]), np.array([1.0, 2.0, 10.0])
    before, after = dict(top=top, bottom=bottom), dict(top=2 * top, bottom=bottom)
    found = bootstrap.differences(ratio, before, after)
    assert found["ratio"].value == pytest.approx(33 / 13)
    # Resamples draw rows whole, so a ratio lies between those of single rows.
    assert 1 <= found["ratio"].low < found["ratio"].high <= 3
    assert found["n"] == (0, 0, 0, 3)


@pytest.mark.parametrize("module", [nll, of_drift])
def test_summaries_of_many_resamples_at_once(module, monkeypatch):
    """Block by block or each by itself, the draws and the numbers are the same."""
    draw = np.random.default_rng(3)
    names = ("nll", "bytes", *drift.NAMES)
    before, after = (
        {name: draw.random(13) + 1 for name in names} | {"tokens": np.float64([0, *range(12)])}
        for _ in range(2)
    )
    at_once = bootstrap.paired(module.summary, before, after)
    monkeypatch.setattr(bootstrap, "_BLOCK", 13 * 7)  # and a block that is not full
    by_blocks = bootstrap.paired(module.summary, before, after)
    each = bootstrap.paired(functools.partial(module.summary), before, after)  # without the mark
    for name, own in each.items():
        for found in (at_once, by_blocks):
            np.testing.assert_allclose(
                np.asarray(found[name], np.float64), np.asarray(own, np.float64), rtol=1e-12
            )


def test_a_share_has_an_interval_where_all_or_none_are_right():
    # Brown, Cai and DasGupta (2001), of 0 and of 8 in 10.
    assert bootstrap.wilson(0, 10, level=0.95) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert bootstrap.wilson(8, 10, level=0.95) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    right = {"x": np.zeros(10)}, {"x": np.ones(10)}
    before, after, change = bootstrap.paired(MEAN, *right)["x"]
    assert before[:3] == pytest.approx((0.0, 0.0, 0.2775), abs=1e-4)
    assert after[:3] == pytest.approx((1.0, 0.7225, 1.0), abs=1e-4)
    assert change == (1.0, 1.0, 1.0, 10)


def test_both_sides_have_their_own_intervals():
    x = np.random.default_rng(5).normal(size=300)
    before, after, change = bootstrap.paired(MEAN, {"x": x}, {"x": x + 0.5})["x"]
    half = 1.96 * x.std() / np.sqrt(len(x))
    for side in (before, after):
        assert side.high - side.low == pytest.approx(2 * half, rel=0.2)
    assert change.high - change.low < 1e-9


def test_the_seed_decides():
    x = np.random.default_rng(4).normal(size=30)
    draw = lambda seed: bootstrap.differences(MEAN, {"x": 0 * x}, {"x": x}, seed=seed)
    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"x": np.ones(3)}, {"x": np.ones(4)}),
        ({"x": np.ones(3)}, {"y": np.ones(3)}),
        ({"x": np.ones(0)}, {"x": np.ones(0)}),
        ({"x": np.ones(3), "y": np.ones(2)}, {"x": np.ones(3), "y": np.ones(2)}),
    ],
)
def test_examples_that_do_not_pair_are_an_error(before, after):
    with pytest.raises(ValueError, match="evaluate both on the same examples"):
        bootstrap.differences(MEAN, before, after)


def test_nested_groups_are_averaged_each_by_itself():
    groups = [{"x": np.full(90, 1.0)}, {"x": np.full(10, 2.0)}]
    found = bootstrap.nested(lambda arrays: arrays["x"].mean(), groups)
    assert found == (1.5, 1.0, 2.0, 100)  # one of four draws has the first group alone


def test_nested_examples_add_to_groups():
    rng = np.random.default_rng(4)
    mean = lambda arrays: arrays["x"].mean()
    between = rng.normal(size=30)
    exact = bootstrap.nested(mean, [{"x": np.full(5, m)} for m in between], resamples=1000)
    noisy = bootstrap.nested(
        mean, [{"x": m + 3 * rng.normal(size=5)} for m in between], resamples=1000
    )
    half = 1.96 * between.std() / np.sqrt(30)
    assert exact.high - exact.low == pytest.approx(2 * half, rel=0.15)
    assert noisy.high - noisy.low > 1.3 * (exact.high - exact.low)


def test_nested_pairs_stay_together():
    rng = np.random.default_rng(5)
    before = rng.normal(scale=100, size=(4, 20))
    groups = [{"before": x, "after": x + 0.25} for x in before]
    change = lambda arrays: (arrays["after"] - arrays["before"]).mean()
    assert bootstrap.nested(change, groups, resamples=50) == pytest.approx((0.25, 0.25, 0.25, 80))


@pytest.mark.parametrize("groups", [[], [{"x": np.zeros(0)}], [{"x": np.ones(2), "y": np.ones(3)}]])
def test_nested_groups_that_are_none(groups):
    with pytest.raises(ValueError, match="bootstrap: got"):
        bootstrap.nested(lambda arrays: 0.0, groups)
