"""A bucket that is memory: the store behind memory:// and machines that work on one URL in it."""

import fsspec
import pytest

from ftjax.core import mirror

URL = "memory://bucket/runs/mine"


@pytest.fixture
def store():
    """An empty store behind memory://."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


@pytest.fixture
def machine(store, tmp_path, monkeypatch):
    """Go on at a machine of this name: each has a cache, and so a folder, of its own."""

    def go(name):
        monkeypatch.setenv("FTJAX_CACHE", str(tmp_path / name))
        return mirror.Mirror(URL, where="x")

    go("first")
    return go


def write(folder, files):
    """Write texts by name."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def texts(folder):
    """Read all files of a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def objects(store):
    """List what the store has under the URL."""
    return {path.removeprefix("/bucket/runs/mine/") for path in store.find("/bucket/runs/mine")}
