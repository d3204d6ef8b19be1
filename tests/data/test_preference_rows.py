r"""Rows of preferences: what is refused, what is counted, and what transcripts turn into."""

import pytest

from ftjax.data import rows
from ftjax.data.rows import Rows

PAIR = {"prompt": "Why?", "chosen": " Because.", "rejected": " No."}
SINGLE = {"prompt": "Why?", "completion": " Because.", "label": True}
RANKED = {"prompt": "Why?", "answers": [" a", " b", " c"]}
USER = {"role": "user", "content": "Why?"}
SAY = lambda text: {"role": "assistant", "content": text}


def check(kind, *found, **options):
    source = Rows(found, where=lambda i: f"pairs.jsonl:{i + 1}")
    return rows.check(source, kind, **options)


def test_a_pair():
    row = check("preference", PAIR | {"margin": 2, "weight": 0.5}, fields={"weight": "weight"})[0]
    assert row == {
        "prompt": "Why?",
        "answers": [" Because.", " No."],
        "margin": 2.0,
        "weight": 0.5,
    }


def test_a_pair_of_messages():
    row = check("preference", {"prompt": [USER], "chosen": "Yes", "rejected": [SAY("No")]})[0]
    assert row["answers"] == [[SAY("Yes")], [SAY("No")]]


@pytest.mark.parametrize("kind", ["text", "messages"])
def test_what_whole_conversations_share_is_the_prompt(kind):
    if kind == "text":
        start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
        row = {"chosen": f"{start} Because.", "rejected": f"{start} Be quiet."}
        expected = start, [" Because.", " Be quiet."]
    else:
        row = {"chosen": [USER, SAY("Yes")], "rejected": [USER, SAY("No")]}
        expected = [USER], [[SAY("Yes")], [SAY("No")]]
    found = check("preference", row)[0]
    assert (found["prompt"], found["answers"]) == expected


def test_a_single_answer_and_a_ranking():
    assert check("unpaired", SINGLE | {"label": 0})[0]["label"] is False
    assert check("unpaired", SINGLE)[0]["answers"] == [" Because."]
    assert check("ranking", RANKED)[0]["answers"] == [" a", " b", " c"]


BAD = {
    "equal answers": ("preference", PAIR | {"rejected": " Because."}),
    "missing field": ("preference", {"prompt": "Why?", "chosen": " Because."}),
    "wrong type": ("preference", PAIR | {"rejected": None}),
    "empty prompt": ("preference", PAIR | {"prompt": " "}),
    "empty chosen": ("preference", PAIR | {"chosen": ""}),
    "no common beginning": ("preference", {"chosen": "abc", "rejected": "xyz"}),
    "equal conversations": (
        "preference",
        {"chosen": [USER, SAY("a")], "rejected": [USER, SAY("a")]},
    ),
    "bad label": ("unpaired", SINGLE | {"label": "yes"}),
    "bad margin": ("preference", PAIR | {"margin": "much"}),
    "missing answers": ("ranking", RANKED | {"answers": [" a"]}),
    "equal ranks": ("ranking", RANKED | {"answers": [" a", " b", " a"]}),
}
REASONS = {
    "no common beginning": "empty prompt",
    "equal conversations": "equal answers",
    "equal ranks": "equal answers",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_errors_or_counted(name):
    kind, bad = BAD[name]
    good = {"preference": PAIR, "unpaired": SINGLE, "ranking": RANKED}[kind]
    with pytest.raises(ValueError, match=r"pairs\.jsonl:2: field .*expected"):
        check(kind, good, bad)
    found = check(kind, good, bad, on_bad_row="skip")
    assert len(found) == 1
    assert rows.count_bad(found.bad)["reasons"] == {REASONS.get(name, name): 1}
