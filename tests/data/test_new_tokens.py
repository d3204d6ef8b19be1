"""Tokens added to a tokenizer: their ids, their files, and what is refused."""

import json
import shutil

import pytest

from ftjax.data import tokenizer_files
from tests.lab import ASSETS

NEW = ("<tool>", "</tool>")


@pytest.fixture(scope="module")
def old():
    return tokenizer_files.load(ASSETS)


def test_ids_follow_the_largest_and_are_special(old):
    new = tokenizer_files.load(ASSETS, new_tokens=NEW)
    first = old.vocab_size
    assert [new.token_id(token) for token in NEW] == [first, first + 1]
    assert new.vocab_size == first + 2
    text = "call <tool>x</tool>"
    ids = new.encode(text, add_special_tokens=False)
    parts = [old.encode(part, add_special_tokens=False) for part in ("call ", "x")]
    assert ids == [*parts[0], first, *parts[1], first + 1]
    assert new.decode(ids) == text
    literal = new.encode(text, add_special_tokens=False, special=False)
    assert literal == old.encode(text, add_special_tokens=False)
    assert new.digest() != old.digest()


def test_its_files_have_them_too(old, tmp_path):
    for file in ASSETS.glob("tokenizer*.json"):
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {"0": dict(content="<|pad|>", special=True)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    new = tokenizer_files.load(tmp_path, new_tokens=NEW)
    new.save(tmp_path / "out")
    again = tokenizer_files.load(tmp_path / "out")
    assert again.special_tokens() == old.special_tokens() | dict(
        zip(NEW, range(old.vocab_size, old.vocab_size + 2), strict=True)
    )
    assert (again.bos_id, again.eos_id, again.pad_id) == (old.bos_id, old.eos_id, old.pad_id)
    saved = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert {i: x["content"] for i, x in saved["added_tokens_decoder"].items()} == {
        "0": "<|pad|>", str(old.vocab_size): "<tool>", str(old.vocab_size + 1): "</tool>",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("<|bos|>",), r"data\.new_tokens: got \{'<\|bos\|>': 1\}, tokens that the tokenizer has"),
        (("<a>", "<a>"), "expected distinct texts"),
        (("",), "expected distinct texts"),
    ],
)
def test_what_is_refused(old, tokens, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_files.extend(old, tokens)
