"""Batches of language-model rows against the reference collator."""

import numpy as np
import pytest

from ftjax.data import packing
from ftjax.data.encode import Example
from ftjax.data.store import Store, fill
from tests.golden import reference


@pytest.fixture(scope="module")
def cases(golden):
    found = reference.given(golden / "data/collate.json")["cases"]
    return [case for case in found if case["kind"] == "lm"]


def store_of(case):
    weights = [[float(label != -100) for label in row["labels"]] for row in case["rows"]]
    tokens = [row["input_ids"] for row in case["rows"]]
    return Store(
        Example(np.array(t, np.int32), np.array(w, np.float32))
        for t, w in zip(tokens, weights, strict=True)
    )


def test_padded_rows(cases):
    padded = [case for case in cases if "attention_mask" in case["out"]]
    assert padded
    for case in padded:
        store, out = store_of(case), case["out"]
        width = len(out["input_ids"][0])
        plan = packing.make("none", store.lengths, max_tokens=width)
        pad_id = case["settings"]["pad_token_id"]
        batch = fill(store, [(plan, r) for r in range(plan.rows)], max_tokens=width, pad_id=pad_id)
        assert batch["tokens"].tolist() == out["input_ids"]
        assert (batch["segments"] > 0).astype(int).tolist() == out["attention_mask"]
        # The reference keeps a label on first tokens and shifts it away in the model.
        expected = np.array(out["labels"])[:, 1:] != -100
        assert (batch["weights"][:, 1:] > 0).tolist() == expected.tolist()


def test_rows_without_padding(cases):
    """All rows one after the other: positions restart, first tokens are no targets."""
    flat = [c for c in cases if "position_ids" in c["out"] and "seq_lengths" not in c["rows"][0]]
    assert flat
    for case in flat:
        store, out = store_of(case), case["out"]
        width = len(out["input_ids"][0])
        plan = packing.make("wrapped", store.lengths, max_tokens=width)
        batch = fill(store, [(plan, 0)], max_tokens=width, pad_id=0)
        assert batch["tokens"].tolist() == out["input_ids"]
        assert batch["positions"].tolist() == out["position_ids"]
        assert (batch["segments"] - 1).tolist() == out["seq_idx"]
        assert (batch["weights"] > 0).tolist() == (np.array(out["labels"]) != -100).tolist()
