import json
import pathlib
import shutil

import pytest

import ftjax
from ftjax.data import tokenizer_files

TINY = pathlib.Path(ftjax.__file__).parent / "assets" / "tiny"


@pytest.fixture
def folder(tmp_path):
    """A copy of the small tokenizer whose config a test may change."""
    (tmp_path / "tiny").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, tmp_path / "tiny" / name)
    return tmp_path / "tiny"


def configure(folder, **changes):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return tokenizer_files.load(folder)


def test_ids_of_special_tokens(bpe):
    names = (bpe.bos_token, bpe.eos_token, bpe.pad_token)
    assert [bpe.token_id(name) for name in names] == [bpe.bos_id, bpe.eos_id, bpe.pad_id]
    assert len({bpe.bos_id, bpe.eos_id, bpe.pad_id}) == 3
    assert bpe.vocab_size > max(bpe.encode("any text"))


def test_round_trip_and_offsets(bpe):
    text = "A café 😀, 12 + 30 = 42.\n\n  def f(x):"
    ids = bpe.encode(text, add_special_tokens=False)
    assert bpe.decode(ids) == text
    [encoding] = bpe.encode_batch([text], add_special_tokens=False)
    assert encoding.ids == ids
    assert encoding.offsets[0][0] == 0
    assert encoding.offsets[-1][1] == len(text)


def test_special_strings_are_read_or_left_as_text(bpe):
    text = f"say {bpe.eos_token} now"
    assert bpe.eos_id in bpe.encode(text)
    literal = bpe.encode(text, special=False, add_special_tokens=False)
    assert bpe.eos_id not in literal
    assert bpe.decode(literal) == text
    assert bpe.eos_id in bpe.encode(text)  # the switch does not stick


def test_lone_tokenizer_json_finds_the_usual_names(folder):
    lone = folder.parent / "renamed.json"
    shutil.copy(folder / "tokenizer.json", lone)
    found, whole = tokenizer_files.load(lone), tokenizer_files.load(folder)
    assert (found.bos_id, found.eos_id, found.pad_id) == (whole.bos_id, whole.eos_id, whole.pad_id)
    assert found.chat_template is None


def test_pad_falls_back_to_eos_and_then_to_zero(folder):
    found = configure(folder, pad_token=None)
    assert found.pad_token is None
    assert found.pad_id == found.eos_id
    found = configure(folder, pad_token=None, eos_token=None)
    assert (found.eos_id, found.pad_id) == (None, 0)


def test_tokens_as_objects_and_named_templates(folder):
    templates = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    found = configure(folder, eos_token={"content": "<|im_end|>"}, chat_template=templates)
    assert found.eos_token == "<|im_end|>"
    assert found.chat_template == "D"
    (folder / "chat_template.jinja").write_text("J")
    assert tokenizer_files.load(folder).chat_template == "J"


def test_save_writes_the_same_bytes(folder, tmp_path):
    (folder / "chat_template.jinja").write_text("J")
    tokenizer_files.load(folder).save(tmp_path / "out")
    expected = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid JSON"),
        ("[]", "got a JSON list"),
        ('{"bos_token": "a"}', "got .*without 'model'"),
    ],
)
def test_file_that_is_no_tokenizer(tmp_path, content, told):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=rf"tokenizer\.json: {told}"):
        tokenizer_files.load(tmp_path)


def test_missing_and_wrong(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no such file or folder.*expected tokenizer\.json"):
        tokenizer_files.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="eos_token: got '<nope>'; expected a token"):
        configure(folder, eos_token="<nope>")
