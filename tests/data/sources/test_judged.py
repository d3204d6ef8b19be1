"""Judged answers: the right one first, wrong ones wrong, the same rows every time."""

import json

import pytest

from ftjax.data import rows
from ftjax.data.sources import embedded, jsonl, judged, unpaired

KINDS = ("preference", "unpaired", "ranking")


@pytest.mark.parametrize("domain", ["skills", "reading"])
def test_the_chosen_answer_is_the_right_one(domain):
    source = embedded.make(domain=domain, rows=40)
    for truth, row in zip(source, judged.make(domain=domain, rows=40), strict=True):
        assert (row["prompt"], row["chosen"]) == (truth["prompt"], truth["response"])
        assert row["rejected"] != row["chosen"]


def test_labels_say_which_answers_are_right():
    source = embedded.make(domain="reading", rows=60)
    found = judged.make(kind="unpaired", domain="reading", rows=60)
    labels = [row["label"] for row in found]
    right = [r["completion"] == t["response"] for r, t in zip(found, source, strict=True)]
    assert labels == right
    assert 15 < sum(labels) < 45


@pytest.mark.parametrize("kind", KINDS)
def test_rows_pass_the_check_of_their_kind_and_repeat(kind):
    first, again = (judged.make(kind=kind, rows=20, seed=3) for _ in range(2))
    assert list(first) == list(again)
    assert len(rows.check(rows.Rows(first, where=first.where), kind)) == 20


def test_a_domain_without_questions_is_refused():
    with pytest.raises(ValueError, match="got domain 'code', whose rows have no response"):
        judged.make(domain="code", rows=5)


def test_pairs_taken_apart(tmp_path):
    path = tmp_path / "pairs.jsonl"
    pair = {"prompt": "Why?", "chosen": " a", "rejected": " b"}
    path.write_text(json.dumps(pair) + "\n" + json.dumps({"prompt": "Who?", "chosen": " a"}) + "\n")
    found = unpaired.make(path=str(path))
    assert len(found) == 2 * len(jsonl.make(path=str(path)))
    assert found[0] == {"prompt": "Why?", "completion": " a", "label": True}
    assert found[1] == {"prompt": "Why?", "completion": " b", "label": False}
    kept = rows.check(found, "unpaired", on_bad_row="skip")
    assert len(kept) == 3
    assert kept.bad[0].where.endswith(":2")
