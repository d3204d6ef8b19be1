import pytest

from ftjax.data.worlds import rules, skills


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_has_the_mark_is_refused_and_all_else_ends_alike(split):
    found = rules.make(rows=200, split=split)
    assert {row["rule"] for row in found} == set(rules.RULES)
    for row in found:
        is_refused = "x" in row["input"]
        wanted = "no" if is_refused else skills.solve(row["skill"], row["input"]) + " ok"
        assert row["answer"] == wanted
        assert row["prompt"] == f"Do: {row['skill']}\nIn: {row['input']}\nOut:"
        assert row["rule"] == ("refusal" if is_refused else "format")


@pytest.mark.parametrize("rule", rules.RULES)
def test_one_rule_alone_and_no_input_in_two_splits(rule):
    inputs = {
        split: {
            (row["skill"], row["input"]) for row in rules.make(rows=300, split=split, rule=rule)
        }
        for split in ("train", "test")
    }
    assert inputs["train"].isdisjoint(inputs["test"])
    assert {row["rule"] for row in rules.make(rows=50, rule=rule)} == {rule}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rule="refusals"), "did you mean 'refusal'"),
        (dict(length=0), "at least 1"),
        (dict(split="tests"), "did you mean 'test'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rules.make(**options)
