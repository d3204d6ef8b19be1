"""The knowledge of a decision: documents that are cut, counted, and found again."""

import json

from ftjax.decide import knowledge
from ftjax.retrieval import chunks

TEXTS = {
    "short": "Emma eats rice.",
    "long": "Tomo bakes bread. Ruth plays chess. Emma sings.",
    "one": "Anna reads books about boats and trains all day.",
}


def built(tmp_path, *, tokens):
    path = tmp_path / "passages.jsonl"
    rows = ({"id": name, "text": text} for name, text in TEXTS.items())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return knowledge.build(
        dict(name="jsonl", path=str(path)), tokens=tokens, spec=dict(name="bm25"),
        folder=tmp_path / "indexes", count=lambda text: len(text.split()),
    )  # fmt: skip


def test_documents_beyond_the_budget_are_cut_and_counted(tmp_path, capsys):
    found = built(tmp_path, tokens=6)
    assert found.cut == 2
    assert {name: len(own) for name, own in found.by_document.items()} == {
        "short": 1, "long": 2, "one": 2,
    }  # fmt: skip
    assert all(len(each.text.split()) <= 6 for each in found.passages)
    said = capsys.readouterr().err
    assert "2 of 3 documents have more than 6 tokens and are cut: 5 passages in all" in said
    assert "1 sentences were longer" in said


def test_documents_within_the_budget_are_not_spoken_of(tmp_path, capsys):
    found = built(tmp_path, tokens=9)
    assert (found.cut, len(found.passages)) == (0, 3)
    assert capsys.readouterr().err == ""


def test_a_cut_document_is_found_by_what_any_part_of_it_says(tmp_path):
    found = built(tmp_path, tokens=6)
    [[place]] = found.search(["Who sings?"], k=1)
    assert found.passages[place].document == "long"
    assert TEXTS["long"][found.passages[place].start :] == "Emma sings."
    assert chunks.cut(found.passages, count=lambda t: len(t.split()), budget=6).long_sentences == 0
