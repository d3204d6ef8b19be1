"""Tensor files with broken headers, names that lead elsewhere, and directories all or nothing."""

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest

from ftjax.core import files

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.safetensors"
    files.write_tensors(path, TENSORS)
    (path.parent / "beside").touch()
    assert path.stat().st_mode == (path.parent / "beside").stat().st_mode  # others may read it
    return path.read_bytes()


def read_all(path):
    with files.open_tensors(path) as handle:
        return {name: handle.get_slice(name)[:] for name in handle.keys()}  # noqa: SIM118


def with_header(good, change):
    size = struct.unpack("<Q", good[:8])[0]
    header = change(json.loads(good[8 : 8 + size]))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + good[8 + size :]


def edit(name, **fields):
    return lambda header: header | {name: header[name] | fields}


BROKEN = {
    "empty": lambda good: b"",
    "short": lambda good: good[:5],
    "header only": lambda good: good[: 8 + struct.unpack("<Q", good[:8])[0]],
    "cut": lambda good: good[:-3],
    "longer": lambda good: good + b"123",
    "huge header": lambda good: struct.pack("<Q", 2**62) + good[8:],
    "large header": lambda good: struct.pack("<Q", 200_000_000) + good[8:],
    "not JSON": lambda good: good[:8] + b"x" * (len(good) - 8),
    "no object": lambda good: with_header(good, lambda header: [1]),
    "unknown type": lambda good: with_header(good, edit("b", dtype="Q9")),
    "past the end": lambda good: with_header(good, edit("b", data_offsets=[24, 9000])),
    "negative": lambda good: with_header(good, edit("b", data_offsets=[-8, 0])),
    "backwards": lambda good: with_header(good, edit("b", data_offsets=[32, 24])),
    "overlap": lambda good: with_header(good, edit("b", data_offsets=[16, 24])),
    "wrong shape": lambda good: with_header(good, edit("a.weight", shape=[2, 4])),
    "overflowing shape": lambda good: with_header(good, edit("b", shape=[2**62, 8])),
    "no offsets": lambda good: with_header(good, lambda h: h | {"b": {"dtype": "F16"}}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(name, good, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(BROKEN[name](good))
    assert path.read_bytes() != good
    with pytest.raises(ValueError, match=r"model\.safetensors: got a file whose header"):
        read_all(path)


def test_the_size_of_a_header_is_checked_before_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2 * files.MAX_HEADER))
        file.truncate(4 * files.MAX_HEADER)  # the bytes are there, all zero
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="at most are read"):
            files.open_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        files.open_tensors(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        files.read_json(tmp_path / "config.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff"])
def test_json_that_is_no_object(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.json"):
        files.read_json(path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "", 3])
def test_names_stay_inside(tmp_path, name):
    with pytest.raises(ValueError, match="expected a plain name"):
        files.inside(tmp_path, name)
    assert files.inside(tmp_path, "x.safetensors").parent == tmp_path


def test_links_stay_inside(tmp_path):
    outside = tmp_path / "secret"
    outside.write_text("x")
    folder = tmp_path / "repo" / "snapshots" / "main"
    folder.mkdir(parents=True)
    for target, name in ((outside, "absolute"), ("../../../secret", "relative")):
        (folder / name).symlink_to(target)
        with pytest.raises(ValueError, match=f"{name}: got a link to .*expected a file of the"):
            files.inside(folder, name)
    (tmp_path / "repo" / "blobs").mkdir()
    (tmp_path / "repo" / "blobs" / "1f2e").write_text("x")
    (folder / "cached").symlink_to("../../blobs/1f2e")  # as huggingface_hub keeps files
    (folder / "other").symlink_to("cached")
    assert files.inside(folder, "cached").read_text() == "x"
    assert files.inside(folder, "other").read_text() == "x"
    beside = tmp_path / "plain"
    beside.symlink_to(folder)  # the directory itself may be a link
    assert files.inside(beside, "cached").read_text() == "x"


def test_publishing_is_all_or_nothing(tmp_path):
    def fail(directory):
        with files.publish(directory) as draft:
            (draft / "x").write_text("1")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail(tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())
    with files.publish(tmp_path / "out") as draft:
        (draft / "x").write_text("1")
        assert not (tmp_path / "out").exists()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x"]
    with pytest.raises(ValueError, match="not empty"):
        with files.publish(tmp_path / "out"):
            pass
    assert (tmp_path / "out" / "x").read_text() == "1"


def test_complaints_name_everything():
    wanted, found = {"a.x": (1,), "b": (2, 3), "c": ()}, {"a.y": (1,), "b": (3, 2), "c": ()}
    assert files.complaints(wanted, found) == [
        "missing a.x (nearest: a.y)", "b has shape (3, 2), expected (2, 3)", "unexpected a.y",
    ]  # fmt: skip
    assert files.complaints(wanted, wanted | {"z": ()}, ignored={"z"}) == []
    assert files.listing(["x"] * 3, limit=2) == "x; x; and 1 more"


def test_names_are_on_the_disk_too(tmp_path, monkeypatch):
    """A rename is lost in a power failure until the folder that holds the name is flushed."""
    synced, fsync = [], os.fsync

    def record(number):
        synced.append(os.fstat(number).st_ino)
        fsync(number)

    monkeypatch.setattr(os, "fsync", record)
    files.write_text(tmp_path / "a" / "x", "1")
    assert synced[-1] == (tmp_path / "a").stat().st_ino
    with files.publish(tmp_path / "b" / "out") as draft:
        (draft / "deep").mkdir()
        (draft / "deep" / "x").write_text("1")
    assert synced[-1] == (tmp_path / "b").stat().st_ino
    assert (tmp_path / "b" / "out" / "deep" / "x").stat().st_ino in synced
