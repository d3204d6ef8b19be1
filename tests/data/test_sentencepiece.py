import io

import pytest

from ftjax.data import tokenizer_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    library = pytest.importorskip("sentencepiece", reason="needs the extra `sentencepiece`")
    model = io.BytesIO()
    text = ["hello world, this is a café 😀", "the quick brown fox jumps over the lazy dog"] * 30
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("model")
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def test_round_trip_with_bos(folder):
    found = tokenizer_files.load(folder)
    ids = found.encode("hello café 😀 fox")
    assert ids[0] == found.bos_id
    assert found.decode(ids[1:]) == "hello café 😀 fox"
    assert found.encode("hello", add_special_tokens=False)[0] != found.bos_id


def test_control_tokens_in_text_are_read_or_not(folder):
    found = tokenizer_files.load(folder)
    assert found.eos_id in found.encode("hello</s>")
    assert found.eos_id not in found.encode("hello</s>", special=False)
    assert found.decode(found.encode("hello</s>", special=False)[1:]) == "hello</s>"


def test_offsets_are_characters(folder):
    found = tokenizer_files.load(folder)
    text = "café 😀 world</s> dog"
    [encoding] = found.encode_batch([text], add_special_tokens=False)
    covered = [text[a:b] for a, b in encoding.offsets]
    assert "".join(covered) == text
    assert covered[encoding.ids.index(found.eos_id)] == "</s>"


def test_save_writes_the_same_bytes(folder, tmp_path):
    tokenizer_files.load(folder).save(tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
