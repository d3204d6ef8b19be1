"""Files of a tokenizer that are not in order: each is refused with its path, key and fix."""

import json
import pathlib
import shutil

import pytest

import ftjax
from ftjax.data import tokenizer_files

TINY = pathlib.Path(ftjax.__file__).parent / "assets" / "tiny"
CONFIG = "tokenizer_config.json"
BROKEN = {  # name: (file, content or changes of its JSON, words of the message)
    "a token in a list": (CONFIG, {"pad_token": ["<|pad|>"]}, "pad_token: got ['<|pad|>']"),
    "a token without its text": (CONFIG, {"eos_token": {"text": "x"}}, "eos_token: got"),
    "a token whose text is a number": (CONFIG, {"bos_token": {"content": 3}}, "bos_token: got"),
    "a template that is a number": (CONFIG, {"chat_template": 3}, "chat_template: got 3"),
    "templates without names": (CONFIG, {"chat_template": [{"template": "x"}]}, "chat_template"),
    "a named template that is none": (
        CONFIG, {"chat_template": [{"name": "default", "template": 3}]}, "chat_template: got"),
    "a cut config": (CONFIG, b'{"eos_token": "', "not valid JSON"),
    "a config in another encoding": (CONFIG, b'{"eos_token": "\xe9"}', "not valid JSON"),
    "a config that is a list": (CONFIG, b"[]", "expected an object"),
    "a map that is text": ("special_tokens_map.json", b'"x"', "expected an object"),
    "a template in another encoding": ("chat_template.jinja", b"caf\xe9", "got byte 0xe9 at 3"),
    "nested without end": ("tokenizer.json", b"[" * 100_000, "not valid JSON"),
    "a vocabulary that is none": ("tokenizer.json", {"model": {"type": "BPE"}}, "no tokenizer"),
    "no tokens": (
        "tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": []},
                           "added_tokens": []}, "got no token"),
    "ends that are nested without end": ("generation_config.json", b"[" * 100_000, "not valid"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN.keys())
def test_it_is_refused_in_a_line(case, tmp_path):
    name, content, words = case
    for file in TINY.glob("tokenizer*.json"):
        shutil.copy(file, tmp_path)
    if isinstance(content, dict):
        content = json.dumps(json.loads((tmp_path / name).read_bytes()) | content).encode()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r".") as error:
        tokenizer_files.load(tmp_path)
    message = str(error.value)
    assert words in message
    assert "\n" not in message
    assert str(tmp_path / name) in message


def test_ends_of_a_config_without_sense_are_left_out(tmp_path):
    for file in TINY.glob("tokenizer*.json"):
        shutil.copy(file, tmp_path)
    found = {"text_config": None, "eos_token_id": [1, True, "x", None]}
    (tmp_path / "config.json").write_text(json.dumps(found))
    assert tokenizer_files.load(tmp_path).stop_ids == (1,)
