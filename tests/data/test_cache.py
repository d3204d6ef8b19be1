"""Encoded data on the disk: a second start encodes nothing and gives the same batches."""

import concurrent.futures
import json
import threading

import numpy as np
import pytest

from ftjax.data import cache, chat, copies, encode, loader, prepare, stops
from ftjax.data.tokenizer import Tokenizer

PAIR = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
KINDS = {
    "text": [{"text": f"number {n} of some texts"} for n in range(6)],
    "prompt": [{"prompt": f"{n}?", "response": f" {n} {n}", "extra": 1} for n in range(6)],
    "chat": [{"messages": PAIR}, {"messages": [*PAIR, *PAIR]}, {"messages": PAIR}],
    "preference": [{"prompt": "a", "chosen": f" b{n}", "rejected": " c"} for n in range(4)],
    "unpaired": [{"prompt": f"a{n}", "completion": " b", "label": n % 2 == 0} for n in range(4)],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FTJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


@pytest.fixture
def rows(tmp_path):
    def rows(found, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        return str(path)

    return rows


@pytest.fixture
def encoded(monkeypatch):
    """Counts the calls of the encoder."""
    calls = []
    encode_batch = Tokenizer.encode_batch
    monkeypatch.setattr(
        Tokenizer, "encode_batch", lambda *a, **k: calls.append(1) or encode_batch(*a, **k)
    )
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_start_encodes_nothing_and_is_the_same(kind, rows, bpe, encoded, monkeypatch):
    own = dict(name="jsonl", path=rows(KINDS[kind]), kind=kind, tokenizer=bpe, max_tokens=64)
    held = {"evals.x": copies.Texts([{"text": "number 3 of some texts"}])}
    first = loader.make(**own, batch_size=2, eval_texts=held)
    assert encoded
    encoded.clear()
    monkeypatch.setattr(prepare, "prepare", None)  # nor is anything read or parsed
    monkeypatch.setattr(prepare, "_parts", None)
    second = loader.make(**own, batch_size=2, eval_texts=held)
    assert not encoded
    assert second.summary() == first.summary()
    assert second.state() == first.state()
    assert second.data._replace(store=None) == first.data._replace(store=None)
    for g in range(3):
        ours, theirs = first.batch(g), second.batch(g)
        assert ours.keys() == theirs.keys()
        assert all((ours[name] == theirs[name]).all() for name in ours)
    assert isinstance(second.data.store.arrays()["tokens"].base, np.memmap)


def test_bad_rows_and_what_was_cut_are_remembered(rows, bpe):
    found = [{"text": "good"}, {"text": ""}, {"text": "long " * 40}, {"text": "good"}]
    own = dict(name="jsonl", path=rows(found), kind="text", on_bad_row="skip", tokenizer=bpe)
    first, second = (prepare.load(**own, max_tokens=16) for _ in range(2))
    assert second.bad == first.bad != []
    assert (second.count, second.duplicates) == (first.count, 1)
    assert second.count["split"] == 1


CHANGES = {
    "max_tokens": lambda own: own | {"max_tokens": 32},
    "an option": lambda own: own | {"loss": "all"},
    "evaluations": lambda own: own | {"eval_texts": {"e": copies.Texts([{"text": "x"}])}},
    "the file": lambda own: _changed(own),
}


def _changed(own):
    with open(own["path"], "a") as file:
        file.write('{"prompt": "new", "response": " row"}\n')
    return own


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_data_come_of_is_in_the_key(what, rows, bpe, encoded):
    own = dict(name="jsonl", path=rows(KINDS["prompt"]), tokenizer=bpe, max_tokens=64)
    prepare.load(**own)
    encoded.clear()
    own = CHANGES[what](own)
    prepare.load(**own)
    assert encoded


def test_code_template_and_tokenizer_are_in_the_key(rows, bpe, encoded, tmp_path, monkeypatch):
    template = tmp_path / "t.jinja"
    template.write_text(chat.BUILT_IN["chatml"])
    own = dict(name="jsonl", path=rows(KINDS["chat"]), kind="chat", max_tokens=64)
    own |= dict(tokenizer=bpe, chat_template=str(template))
    prepare.load(**own)
    template.write_text(chat.BUILT_IN["chatml"] + " ")
    encoded.clear()
    prepare.load(**own)
    assert encoded
    encoded.clear()
    monkeypatch.setattr(Tokenizer, "digest", lambda self: "another")
    prepare.load(**own)
    assert encoded
    encoded.clear()
    monkeypatch.setattr(cache, "_code", lambda: "other code")
    prepare.load(**own)
    assert encoded


def test_a_mixture_is_kept_and_generated_rows_within_it(rows, bpe, encoded):
    parts = [dict(name="jsonl", path=rows(KINDS["prompt"]), weight=1.0, label="own")]
    parts.append(dict(name="embedded", domain="skills", rows=4, weight=1.0))
    own = dict(name="mixture", parts=parts, tokenizer=bpe, max_tokens=64)
    first = prepare.load(**own)
    encoded.clear()
    second = prepare.load(**own)
    assert not encoded
    assert (second.names, second.counts, second.shares) == (first.names, (6, 4), first.shares)


def test_a_source_that_does_not_name_its_files_is_not_kept(bpe, encoded, folder):
    own = dict(name="judged", domain="skills", kind="ranking", rows=4, tokenizer=bpe)
    prepare.load(**own, max_tokens=128)
    assert not folder.exists()


def test_nothing_is_kept_where_the_variable_is_empty(rows, bpe, encoded, folder, monkeypatch):
    monkeypatch.setenv("FTJAX_CACHE", "")
    own = dict(name="jsonl", path=rows(KINDS["text"]), kind="text", tokenizer=bpe, max_tokens=64)
    prepare.load(**own)
    encoded.clear()
    prepare.load(**own)
    assert encoded
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_said(rows, bpe, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FTJAX_CACHE", str(tmp_path / "file"))
    own = dict(name="jsonl", path=rows(KINDS["text"]), kind="text", tokenizer=bpe, max_tokens=64)
    with pytest.warns(RuntimeWarning, match="encoded data are not kept; set FTJAX_CACHE"):
        assert len(prepare.load(**own).store) == 6


@pytest.mark.parametrize("damage", ["cut", "meta", "gone"])
def test_a_damaged_entry_is_made_again(damage, rows, bpe, encoded, folder):
    own = dict(name="jsonl", path=rows(KINDS["text"]), kind="text", tokenizer=bpe, max_tokens=64)
    first = prepare.load(**own)
    (entry,) = folder.iterdir()
    file = entry / ("meta.json" if damage == "meta" else "tokens.npy")
    file.write_bytes(file.read_bytes()[:-9]) if damage != "gone" else file.unlink()
    encoded.clear()
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        again = prepare.load(**own)
    assert encoded
    assert again.store.digest() == first.store.digest()
    encoded.clear()
    prepare.load(**own)
    assert not encoded


def test_data_that_never_stop_are_refused_at_every_start(rows, bpe, monkeypatch):
    own = dict(name="jsonl", path=rows(KINDS["text"]), kind="text", tokenizer=bpe, max_tokens=64)
    monkeypatch.setattr(stops, "ids", lambda *_: (-1,))
    for _ in range(2):
        with pytest.raises(ValueError, match="0 of 6 learned turns end in a stop token"):
            prepare.load(**own)


def test_writers_at_the_same_time_leave_one_whole_entry(folder):
    barrier = threading.Barrier(4)

    def write(n):
        example = encode.Example(np.full(200_000, n, np.int32), np.ones(200_000, np.float32))
        none = {key: {} for key in ("count", "forms", "unread", "turns")}
        data = prepare.Data(
            prepare.Store([example]), "tokens", ("a",), (1,), (1.0,), 1, bad=[], pad_id=0,
            duplicates=0, copies=copies.Copies(), held_out=0, **none,
        )  # fmt: skip

        def make():
            barrier.wait(60)  # all have seen that there is none
            return data

        return set(cache.keep("key", make, kind=prepare.Data).store.tokens.tolist())

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(write, range(4)))
    assert all(len(each) == 1 for each in found)
    assert [path.name for path in folder.iterdir()] == ["key"]  # and no draft
