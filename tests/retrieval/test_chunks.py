import pytest

from ftjax.retrieval import chunks, passages

TEXT = (
    "Emma wrote a book. It cost 3.5 pounds! “Who read it?” Nobody knows.\n\nA new part begins, "
    "says Dr. No. 在北京。他很高兴。"
)
words = lambda text: len(text.split())


def document(text=TEXT, name="a"):
    return passages.of_rows([{"id": name, "text": text}], where="passages")


def test_sentences_cover_the_text_and_end_where_the_next_begins():
    spans = chunks.sentences(TEXT)
    assert "".join(TEXT[start:end] for start, end in spans) == TEXT
    found = [TEXT[start:end].strip() for start, end in spans]
    assert found[:4] == [
        "Emma wrote a book.", "It cost 3.5 pounds!", "“Who read it?”", "Nobody knows."
    ]  # fmt: skip
    assert found[-2:] == ["在北京。", "他很高兴。"]


@pytest.mark.parametrize("budget", [3, 4, 7, 11])
def test_passages_keep_the_budget_their_ids_and_their_characters(budget):
    found = chunks.cut(document(), count=words, budget=budget)
    assert all(words(each.text) <= budget for each in found.passages)
    assert all(TEXT[each.start : each.end] == each.text for each in found.passages)
    assert [each.id for each in found.passages] == [f"a#{n}" for n in range(len(found.passages))]
    assert {each.document for each in found.passages} == {"a"}
    assert " ".join(each.text for each in found.passages).split() == TEXT.split()


def test_a_document_within_the_budget_stays_whole():
    found = chunks.cut(document(), count=words, budget=100)
    assert (found.passages, found.long_sentences) == (document(), 0)


def test_passages_are_as_long_as_the_budget_allows():
    found = chunks.cut(document("A b. C d. E f."), count=words, budget=4)
    assert [each.text for each in found.passages] == ["A b. C d.", "E f."]


def test_long_sentences_and_long_words_are_cut_and_counted():
    found = chunks.cut(document("one two three four five. Six."), count=words, budget=2)
    assert [each.text for each in found.passages] == ["one two", "three four", "five. Six."]
    assert found.long_sentences == 1
    found = chunks.cut(document("abcdefgh i"), count=len, budget=3)
    assert [each.text for each in found.passages] == ["abc", "def", "gh", "i"]


def test_characters_are_of_the_whole_document_when_a_passage_is_cut_again():
    first = chunks.cut(document(), count=words, budget=8).passages
    again = chunks.cut(first, count=words, budget=3).passages
    assert all(TEXT[each.start : each.end] == each.text for each in again)


@pytest.mark.parametrize(("budget", "count"), [(0, words), (1, lambda text: 2 * len(text))])
def test_a_budget_that_holds_nothing_is_refused(budget, count):
    with pytest.raises(ValueError, match=r"budget: got .* raise it"):
        chunks.cut(document(), count=count, budget=budget)
