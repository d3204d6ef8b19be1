"""The model card: what stands in it, and what must not."""

import hashlib

from ftjax.report import card as cards
from ftjax.report import table as tables

TABLE = tables.table(
    {"before": {"eval/task/nll": 2.0, "eval/old/accuracy": 0.5},
     "after": {"eval/task/nll": 1.0, "eval/old/accuracy": 0.25}},
    groups={"task": "new", "old": "old"},
)  # fmt: skip


def card(**changes):
    data = {"rows": 12345, "stops": "3 of 3 learned turns end in a stop token",
            "dropped": {"too_long": 4, "empty": 0}}  # fmt: skip
    given = dict(
        form="adapter", base="org/name", base_hash="abc", method="lora", merges=True,
        trains_rows=False, resized=None, objective="sft", heads=(),
        config={"data": {"path": ["/srv/secret/rows.jsonl"]}},
        record=cards.Record(1200, data, TABLE),
    )  # fmt: skip
    return cards.Card(**given | changes)


def test_it_has_base_data_table_and_code():
    text = cards.text(card(), {})
    assert text.startswith("---\nlibrary_name: peft\nbase_model: org/name\n")
    for part in (
        "- base: `org/name` (sha256 `abc`)", "`sft`, 1,200 steps", "- rows: 12,345",
        "- dropped, too_long: 4", "| new | task | nll | 2.000 | 1.000 | -1.000 (better) |",
        "| old | old | accuracy | 0.500 | 0.250 | -0.250 (worse) |",
        'PeftModel.from_pretrained(model, "FOLDER")', "--enable-lora --lora-modules mine=FOLDER",
    ):  # fmt: skip
        assert part in text, part
    assert "empty" not in text


def test_absolute_paths_are_shortened():
    paths = {"a": "/srv/x/base", "b": "~/y", "c": "C:\\z\\w", "d": "e/f"}
    text = cards.text(card(config=paths), {})
    assert "srv" not in text
    for part in ('"a": "base"', '"b": "y"', '"c": "w"', '"d": "e/f"'):
        assert part in text, part


def test_every_file_has_its_hash(tmp_path):
    (tmp_path / "weights").write_bytes(b"123")
    cards.write(tmp_path, card())
    digest = hashlib.sha256(b"123").hexdigest()
    assert f"| `weights` | `{digest}` |" in (tmp_path / cards.NAME).read_text()


def test_a_model_is_loaded_without_peft():
    text = cards.text(card(form="model", base="tiny", record=None, heads=("reward",)), {})
    assert "library_name: transformers" in text
    assert "base_model:" not in text  # no name that a hub would find
    assert "peft" not in text
    assert "vllm serve FOLDER" in text
    assert "`reward_head.safetensors` has `score.weight`" in text
    assert 'AutoModelForSequenceClassification.from_pretrained("FOLDER", num_labels=1)' in text


def test_what_vllm_cannot_apply_is_said():
    assert "export the run with `--merge`" in cards.text(card(method="oft"), {})
    assert "cannot be merged" in cards.text(card(method="prompt", merges=False), {})
