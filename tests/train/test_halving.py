import pytest

from ftjax.train.halving import Halving, Seen


def made(**changes):
    return Halving(**dict(metric="eval/choice/nll", rungs=(10, 20)) | changes)


def test_half_pass_the_first_rung_and_a_quarter_the_second():
    values = {0: 3.0, 1: 1.0, 2: 2.0, 3: 4.0, 4: 0.5, 5: 9.0, 6: 8.0, 7: 7.0}
    assert made().worse(values, step=10, of=8) == [3, 5, 6, 7]
    left = {index: values[index] for index in (0, 1, 2, 4)}
    assert made().worse(left, step=20, of=8) == [0, 2]
    assert made().worse(left, step=15, of=8) == []
    assert made(metric="eval/choice/accuracy").worse(left, step=20, of=8) == [1, 4]
    assert made(keep=0.1).worse({3: 2.0, 5: 1.0}, step=20, of=8) == [3]  # one is left always


def test_what_is_no_number_ends_first_and_of_equals_the_later():
    assert made().worse({0: float("nan"), 1: 2.0, 2: None, 3: 2.0}, step=10, of=4) == [0, 2]
    assert made().worse({0: 1.0, 1: 1.0, 2: 1.0}, step=10, of=3) == [2]


def test_who_is_killed_between_two_ends_decides_the_same():
    """Those that had ended by then are missing in the second process."""
    values = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}
    left = {index: value for index, value in values.items() if index != 2}
    assert made().worse(values, step=10, of=4) == [2, 3]
    assert made().worse(left, step=10, of=4) == [3]
    diverged = {1: 2.0, 3: 4.0}  # fewer than may pass
    assert made().worse(diverged, step=10, of=4) == []


def test_the_newest_value_survives_a_restart():
    seen, after = Seen("eval/choice/nll"), Seen("eval/choice/nll")
    for row in ({"eval/choice/nll": 2.0}, {"loss": 1.0}):
        seen.see(row)
    after.restore(seen.dump())
    assert seen.value == after.value == 2.0
    assert made().reason(10, 2.0) == (
        "eval/choice/nll was 2 at step 10, not among the best 50%"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(rungs=(20, 10)), r"halving.rungs: got \(20, 10\); expected steps that increase"),
        (dict(rungs=()), "halving.rungs: got"),
        (dict(keep=1.0), "halving.keep: got 1.0; expected a part"),
        (dict(metric="eval/choice/nl"), "got 'nl'; .* did you mean 'nll'"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)
