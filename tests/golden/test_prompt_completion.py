"""Token ids and targets of prompts, responses and conversations against the reference trainer."""

import numpy as np
import pytest

from ftjax.data import chat, encode, packing, rows, tokenizer_files
from ftjax.data.store import Store, fill
from tests.golden import reference


@pytest.fixture(scope="module")
def cases(golden):
    return reference.given(golden / "data/prompt_completion.json")["cases"]


@pytest.fixture(scope="module")
def templates(golden):
    return reference.given(golden / "data/chat.json")["templates"]


@pytest.fixture(scope="module")
def bpe(golden):
    return tokenizer_files.load(golden / "data/tokenizer")


def examples_of(case, bpe, templates):
    """Encode the rows of a case as its settings say."""
    kind = "chat" if "messages" in case["rows"][0] else "prompt"
    fields = None if kind == "chat" else {"response": "completion"}
    raw = rows.Rows(case["rows"], where=str)
    checked = list(rows.check(raw, kind, fields=fields))
    settings = case["settings"]
    only = settings.get("completion_only_loss", kind == "prompt")
    loss = "completion" if only or settings.get("assistant_only_loss") else "all"
    template = case["template"] and chat.find(templates[case["template"]], bpe)
    found = encode.examples(checked, bpe, loss=loss, template=template)
    limit = settings["max_length"]
    return [piece for one in found for piece in encode.fit(one, limit, overlong="truncate")[0]]


def targets(labels):
    """Positions that are predicted: the first token of a sequence has nothing to predict it."""
    return [int(label != -100) for label in labels][1:]


def test_ids_and_targets(cases, bpe, templates):
    for case in cases:
        if case["settings"].get("packing"):
            continue
        found = examples_of(case, bpe, templates)
        assert [each.tokens.tolist() for each in found] == [o["input_ids"] for o in case["out"]]
        expected = [targets(o["labels"]) for o in case["out"]]
        assert [each.weights[1:].tolist() for each in found] == expected, case["name"]


def test_packed_rows(cases, bpe, templates):
    packed = [case for case in cases if case["settings"].get("packing")]
    assert packed
    for case in packed:
        store = Store(examples_of(case, bpe, templates))
        width = case["settings"]["max_length"]
        plan = packing.make("bfd", store.lengths, max_tokens=width)
        batch = fill(store, [(plan, r) for r in range(plan.rows)], max_tokens=width, pad_id=0)
        assert plan.rows == len(case["out"])
        for r, out in enumerate(case["out"]):
            real = batch["segments"][r] > 0
            assert batch["tokens"][r][real].tolist() == out["input_ids"]
            assert batch["weights"][r][real].tolist() == [float(x != -100) for x in out["labels"]]
            lengths = np.bincount(batch["segments"][r][real])[1:].tolist()
            assert lengths == out["seq_lengths"]
