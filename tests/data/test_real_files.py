"""Real data sets, read, encoded and packed."""

import json

import pytest

from ftjax.data import loader

SETS = {
    "instruct/alpaca/test": {"kind": "prompt"},
    "qa/squad/test": {
        "kind": "prompt",
        "fields": {"prompt": "{context}\n\n{question}\n", "response": "{answers[0]}"},
    },
    "corpus/tinystories/test": {"kind": "text"},
    "preference/hh_helpful/test": {
        "kind": "prompt",
        "fields": {"response": "chosen"},
        "chat_template": "chatml",
    },
}


@pytest.mark.parametrize("name", SETS)
def test_every_row_is_accounted_for(shared_data, name):
    listed = json.loads((shared_data / "MANIFEST.json").read_text())
    made = loader.make(
        name="jsonl",
        path=str(shared_data / f"{name}.jsonl.gz"),
        tokenizer=str(shared_data / "tokenizer" / "bpe4096.json"),
        max_tokens=256,
        batch_size=8,
        **SETS[name],
    )
    found = made.summary()
    assert f"{name}.jsonl.gz" in json.dumps(listed)
    assert found["bad"]["count"] == 0
    if not found["split"]:
        assert found["examples"] + sum(found["dropped"].values()) == found["rows"]
    assert 0 < found["targets"] <= found["tokens"]
    # At most one row of a best-fit packing is less than half full.
    assert 0.5 < found["fill"] <= 1
    assert found["epoch_rows"] < found["examples"]
    batch = next(made)
    assert (batch["weights"] > 0).any(axis=1).all()
    made.close()
