"""Finding and opening data files: a path or URL, a glob, a folder, or a list of these."""

import glob
import gzip
import io
import os
import pathlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ftjax.core import remote
from ftjax.core.config import nearest

# Text shrinks to a tenth or so, a file of equal bytes to a thousandth: that is no text.
MAX_RATIO, MIN_CHECKED = 200, 2**24


def find(path, suffixes: tuple[str, ...], *, where: str) -> list[str]:
    """Return the files that `path` names, sorted within each folder and glob.

    path: a file, a glob such as "shards/*.jsonl", a folder (searched downwards for `suffixes`), or
    a list of these. Of a URL, such as "gs://bucket/*.jsonl", the copies of its files are returned.
    Raises ValueError when one of them names nothing.
    """
    if isinstance(path, str | os.PathLike):
        return _find_one(os.fspath(path), suffixes, where=where)
    if not isinstance(path, Iterable):
        raise ValueError(f"{where}: got {path!r}; expected a path or a list of paths; quote it")
    found = [file for each in path for file in _find_one(os.fspath(each), suffixes, where=where)]
    if not found:
        raise ValueError(f"{where}: got an empty list; expected at least one path; add one")
    return found


def _find_one(path: str, suffixes: tuple[str, ...], *, where: str) -> list[str]:
    if remote.is_url(path):
        return remote.find(path, suffixes, where=where)
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        return [path]
    legal = ", ".join(suffixes)
    if os.path.isdir(path):
        found = sorted(
            str(p)
            for p in pathlib.Path(path).rglob("*")
            if _shown(p, path) and p.name.endswith(suffixes)
        )
        if not found:
            raise ValueError(f"{where}: got the folder {path!r}; expected files {legal} in it")
        return found
    found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if not found:
        raise ValueError(f"{where}: got {path!r}; expected a file, folder or glob; {_near(path)}")
    return found


def _shown(path: pathlib.Path, root: str) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.is_file()


def _near(path: str) -> str:
    folder, name = os.path.split(path)
    folder = folder or "."
    if not os.path.isdir(folder):
        return f"there is no folder {folder!r}"
    return nearest(name, os.listdir(folder)) or "nothing there matches"


@contextmanager
def opened(path: str) -> Iterator[io.BufferedIOBase]:
    """Open a file for reading bytes, through gzip when its name ends in .gz or it begins so."""
    with open(path, "rb") as stream:
        packed = path.endswith(".gz") or stream.peek(2)[:2] == b"\x1f\x8b"
        if not packed:
            yield stream
            return
        with gzip.open(stream, "rb") as unpacked:
            yield io.BufferedReader(_Bounded(unpacked, path))


class _Bounded(io.RawIOBase):
    """A gzip stream that raises when it unpacks to far more than text ever does."""

    def __init__(self, stream: gzip.GzipFile, path: str):
        self._stream, self._path, self._read = stream, path, 0
        self._most = max(MIN_CHECKED, MAX_RATIO * os.path.getsize(path))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self._stream.readinto(buffer)
        self._read += count
        if self._read > self._most:
            raise ValueError(
                f"{self._path}: got over {self._most} bytes out of {os.path.getsize(self._path)}; "
                f"expected at most {MAX_RATIO} times as many as are in a .gz; unpack it by hand "
                "if it is what you want"
            )
        return count
