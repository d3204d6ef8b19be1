import numpy as np
import pytest

from ftjax.evals.lib import retention

BEFORE = {"nll": np.array([2.0, 12.0]), "tokens": np.array([2.0, 4.0])}
AFTER = {"nll": np.array([4.0, 14.0]), "tokens": np.array([2.0, 4.0])}


def test_base_loss_delta_by_hand():
    over_tokens = retention.base_loss_delta(BEFORE, AFTER)
    assert over_tokens.value == pytest.approx(4 / 6)
    assert over_tokens.n == 2
    # Of the four resamples, two draw one example twice: deltas 1 and 1/2.
    assert over_tokens.low == pytest.approx(0.5)
    assert over_tokens.high == pytest.approx(1.0)
    over_examples = retention.base_loss_delta(BEFORE, AFTER, average="examples")
    assert over_examples.value == pytest.approx((1 + 0.5) / 2)
    with pytest.raises(ValueError, match="expected one of tokens, examples"):
        retention.base_loss_delta(BEFORE, AFTER, average="rows")


def test_retention_by_hand():
    before, chance = {"a": 0.75, "b": 0.6}, {"a": 0.25, "b": 0.5}
    keep = lambda **after: retention.retention(before, after, chance)
    assert keep(a=0.75, b=0.6) == pytest.approx(1)
    assert keep(a=0.25, b=0.5) == pytest.approx(0)
    assert keep(a=0.5, b=0.6) == pytest.approx((0.5 + 1) / 2)
    assert keep(a=0.75, b=0.4) == pytest.approx((1 - 1) / 2)


def test_retention_needs_something_to_keep():
    with pytest.raises(ValueError, match="at or below chance on b"):
        retention.retention({"a": 0.9, "b": 0.5}, {"a": 0.9, "b": 0.9}, {"a": 0.5, "b": 0.5})
    with pytest.raises(ValueError, match="the same benchmarks"):
        retention.retention({"a": 0.9}, {"b": 0.9}, {"a": 0.5})
    with pytest.raises(ValueError, match="the same benchmarks"):
        retention.retention({}, {}, {})


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("eval/wiki/nll", -1), ("accuracy", 1), ("a/b/f1", 1), ("bits_per_byte", -1), ("x/mine", 1)],
)
def test_directions(metric, expected):
    assert retention.direction(metric, {"mine": 1}) == expected


def test_an_unknown_metric_is_an_error_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        retention.direction("eval/x/accurracy")
