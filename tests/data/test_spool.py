"""Lists and arrays that go to a file when they grow are what lists and arrays in memory are."""

import gc
import mmap
import pickle

import numpy as np
import pytest

from ftjax.data import prepare, spool, store
from ftjax.data.encode import Example
from ftjax.data.sources import jsonl


@pytest.fixture
def small(monkeypatch):
    """Let everything go to a file at once."""
    monkeypatch.setattr(spool, "MEMORY", 64)
    monkeypatch.setattr(spool, "BLOCK", 24)


def items(count):
    return [{"n": n, "text": "é" * (n % 5), "parts": [{"m": [n]}]} for n in range(count)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("count", [0, 1, spool.CHUNK - 1, spool.CHUNK, 2 * spool.CHUNK + 7])
def test_a_list_holds_what_was_added(count):
    found = spool.List(items(count))
    assert len(found) == count
    assert list(found) == items(count)
    assert [found[-n - 1] for n in range(count)] == items(count)[::-1]
    for outside in (count, -count - 1):
        with pytest.raises(IndexError):
            found[outside]


@pytest.mark.usefixtures("small")
def test_a_list_is_read_while_it_grows():
    found = spool.List()
    for n, item in enumerate(items(3 * spool.CHUNK)):
        found.append(item)
        assert found[n] == item
        assert found[n // 2] == items(3 * spool.CHUNK)[n // 2]


@pytest.mark.usefixtures("small")
def test_the_file_goes_with_its_list():
    found = spool.List(items(2 * spool.CHUNK))
    file = found._file
    assert file._rolled  # to the disk
    del found
    gc.collect()
    assert file.closed


@pytest.mark.parametrize("memory", [8, 2**20])
def test_an_array_is_its_pieces_end_to_end(monkeypatch, memory):
    monkeypatch.setattr(spool, "MEMORY", memory)
    pieces = [np.arange(n, dtype=np.int64) for n in (3, 0, 40, 1)]
    made = spool.Array(np.int32)
    for piece in pieces:
        made.extend(piece)
    np.testing.assert_array_equal(made.whole(), np.concatenate(pieces))
    assert made.whole().dtype == np.int32
    is_mapped = isinstance(base(made.whole()), mmap.mmap)
    assert is_mapped == (memory == 8)


def base(array):
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return array


@pytest.mark.usefixtures("small")
def test_an_empty_array():
    assert spool.Array(np.float32).whole().shape == (0,)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [0, 3, 100])
def test_blocks_are_the_bytes_of_an_array_and_leave_it_as_it_was(size):
    made = spool.Array(np.int32)
    made.extend(np.arange(size))
    whole = made.whole()
    assert b"".join(spool.blocks(whole)) == np.arange(size, dtype=np.int32).tobytes()
    assert b"".join(spool.blocks(whole.reshape(1, -1)[:, ::2])) == whole[::2].tobytes()
    np.testing.assert_array_equal(whole, np.arange(size))


PLACES = ["a.jsonl:1", "a.jsonl:3", "b:item 7", "a.jsonl:10", "x007", "x", "2024", "y 12\nz 5", ""]


def test_places_are_the_texts_that_were_added():
    found = spool.Places()
    for place in PLACES:
        found.append(place)
    assert list(found) == PLACES
    assert found[-1] == ""
    assert found[-len(PLACES)] == PLACES[0]
    with pytest.raises(IndexError):
        found[len(PLACES)]


def test_chosen_items_are_read_in_their_order():
    assert list(spool.Chosen("abcdef", [4, 0, 4])) == ["e", "a", "e"]


@pytest.mark.usefixtures("small")
def test_a_store_of_files_is_one_of_memory(monkeypatch):
    rng = np.random.default_rng(0)
    made = [
        Example(rng.integers(0, 9, n).astype(np.int32), rng.integers(0, 2, n).astype(np.float32))
        for n in (5, 1, 0, 12, 7)
    ]
    filed = store.Store(made)
    monkeypatch.setattr(spool, "MEMORY", 2**20)
    held = store.Store(made)
    for name, array in held.arrays().items():
        np.testing.assert_array_equal(filed.arrays()[name], array, name)
    assert filed.numbers() == held.numbers()
    wanted = sum(int(np.count_nonzero(each.weights[1:])) for each in made)
    assert filed.targets() == wanted


@pytest.mark.usefixtures("small")
def test_data_of_files_are_those_of_memory(tmp_path, monkeypatch, bpe):
    monkeypatch.setenv("FTJAX_CACHE", "")
    path = tmp_path / "rows.jsonl"
    lines = [f'{{"prompt": "{n}?", "response": " {n} and {n}"}}\n' for n in range(100)]
    path.write_text("".join(lines) + lines[0])
    load = lambda: prepare.load(name="jsonl", path=path, tokenizer=bpe, max_tokens=64)
    filed = load()
    monkeypatch.setattr(spool, "MEMORY", 2**30)
    held = load()
    assert filed.store.digest() == held.store.digest()
    assert filed._replace(store=None) == held._replace(store=None)
    assert filed.duplicates == 1


@pytest.mark.usefixtures("small")
def test_rows_of_a_file_know_their_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 0}\n\n' + "".join(f'{{"a": {n}}}\n' for n in range(1, 80)))
    rows = jsonl.make(path=path)
    assert [rows[i]["a"] for i in (0, 1, 79)] == [0, 1, 79]
    assert rows.where(1) == f"{path}:3"
    assert pickle.dumps(rows[1]) == pickle.dumps({"a": 1})
