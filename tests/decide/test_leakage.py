import pytest

from ftjax.decide import citations, leakage
from ftjax.evals import generate

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def items(*texts, ids=()):
    ids = ids or [None] * len(texts)
    return [
        leakage.Item(i, text, f"row {n}")
        for n, (i, text) in enumerate(zip(ids, texts, strict=True))
    ]


def test_ids_and_texts_that_training_has_are_found():
    train = items("Where is Peru?", LONG, ids=["a", "b"])
    test = items("Where is Cuba?", "where IS peru", "x " + LONG, ids=["b", None, "c"])
    found = leakage.find(train, test)
    assert [each.where for each in found.by_id] == ["row 0"]
    assert [each.where for each in found.by_text] == ["row 1", "row 2"]  # 2 of 3 n-grams


def test_stock_phrases_and_rows_without_ids_are_no_leak():
    tail = " ".join(f"w{i}" for i in range(20))
    found = leakage.find(items(LONG), items(f"{LONG} {tail}", "another"))
    assert found == ([], [])


def test_a_leak_is_refused_with_counts():
    found = leakage.find(items("a b", ids=["x"]), items("a b", "c", ids=["y", "x"]))
    with pytest.raises(ValueError, match=r"test: got 1 rows whose id, and 1 whose text, train has"):
        leakage.refuse(found, train="train", test="test")
    leakage.refuse(leakage.find([], items("a")), train="train", test="test")


def test_cited_answers_occur_as_words():
    texts = [["The Party of 1920."], ["x", "Art, and more"], ["party"], ["a"], []]
    answers = ["1920", "art", "art", " ", "b"]
    found = citations.cited(answers, texts, normalize=str.lower)
    assert found.tolist() == [True, True, False, False, False]
    squad = citations.cited(["The rice."], [["Bamo eats rice daily"]], normalize=generate.squad)
    assert squad.tolist() == [True]


def test_scores_given_hit_and_miss():
    assert citations.split([1, 0, 1, 0], [True, True, False, False]) == (0.5, 0.5, 0.5)
    assert citations.split([1, 1, 0], [True, True, False]) == (pytest.approx(2 / 3), 1, 0)
    assert citations.split([1], [True]) == (1, 1, None)
