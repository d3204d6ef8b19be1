import pytest

from ftjax.decide import answer_metric, questions
from ftjax.sampling import rewards

ASKED = questions.Question(
    None, "facts", "2 + 2 =", " 4", ("4", "4.50"), (), "squad", "rows.jsonl:3",
    row={"prompt": "2 + 2 =", "answers": ["4", "4.50"], "most": 3},
)  # fmt: skip


def brief(*, words: int = 1):
    """A reward of one's own: it reads a field of the row."""
    return lambda text, row: float(len(text.split()) <= min(words, row["most"]))


def score(spec, text):
    return answer_metric.make(spec).score(ASKED, text)


def test_texts_count_by_their_best_match():
    assert [score("exact_match", text) for text in ("4.50!", "4 apples")] == [1, 0]
    assert score("f1", "4 apples") == pytest.approx(2 / 3)


def test_rewards_are_metrics_by_name():
    assert [score("number", text) for text in ("it is 4.5", "it is 5", "four")] == [1, 0, 0]
    assert [score("exact", text) for text in (" 4\nmore", "five")] == [1, 0]
    assert [score(dict(name="pattern", regex=r"\d"), text) for text in ("7", "x")] == [1, 0]


def test_rewards_of_ones_own_read_the_row():
    name = f"{__name__}.brief"
    assert [score(name, text) for text in ("a", "a b")] == [1, 0]
    assert [score(dict(name=name, words=9), text) for text in ("a b c", "a b c d")] == [1, 0]


def test_likelihoods_are_the_models():
    assert answer_metric.make("nll") == ("nll", None, "none")
    assert answer_metric.make(dict(name="choice", normalization="bytes")) == (
        "choice",
        None,
        "bytes",
    )


def test_old_abilities_are_asked_for_texts():
    assert answer_metric.make("f1").of_old.name == "f1"
    assert {answer_metric.make(name).of_old.name for name in ("choice", "nll", "number")} == {
        "exact_match"
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exact_matc", "metric: got 'exact_matc'; did you mean 'exact_match'"),
        ("nubmer", "metric: got 'nubmer'; did you mean 'number'"),
        ("nl", "metric: got 'nl'; did you mean 'nll'"),
        ("choise", "expected one of choice, exact, .* or the dotted path"),
        ({}, "metric: got ''"),
        ("no_such_lab.score", "metric.name: got 'no_such_lab.score'"),
        (dict(name="choice", normalization="byte"), "normalization: .*did you mean 'bytes'"),
        (dict(name="f1", words=2), "metric.words: unknown key"),
        (dict(name="nll", score=2), "metric.score: unknown key"),
        (dict(name="pattern"), "expected also regex"),
        (f"{__name__}.batched", "a reward of whole batches"),
    ],
)
def test_unknown_metrics_and_options_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        answer_metric.check(spec)


def batched():
    return rewards.BatchReward(lambda texts, rows: [0.0])


def raising():
    return lambda text, row: row["absent"]


def silent():
    return lambda text, row: None


@pytest.mark.parametrize(
    ("name", "message"),
    [("raising", r"raised KeyError\('absent'\) for the answer 'x' to rows.jsonl:3"),
     ("silent", "returned None, which is no finite number")],
)  # fmt: skip
def test_rewards_that_fail_name_the_row(name, message):
    with pytest.raises(ValueError, match=message):
        score(f"{__name__}.{name}", "x")
