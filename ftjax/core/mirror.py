"""A folder of this machine that is kept equal to a folder at a URL, such as gs://bucket/runs/mine.

    mirror = Mirror("gs://bucket/runs/mine", where="--workdir")
    mirror.fill()       # what is there comes here, where another machine has gone on
    mirror.send()       # what has changed here goes there

A store of objects has neither renames nor folders: whoever is killed while copying leaves a half.
INDEX, written after the files that it names and before any are removed, says which are whole: a
new file that it does not name was never there. One that it names may be newer than it, as a file
that a run appends to or replaces is after a kill. A checkpoint or an export is named whole or not
at all, by its digest.json.

INDEX has a version. Where that is the one last seen from here, nobody else has written since, and
what is here goes on, also where it never got there; else what is there replaces what is here. A
file that is removed while nothing runs is filled in again: only a run removes what is there.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from ftjax.core import digest, files, remote

INDEX = "mirror.json"
LOCKS = "lock.json"  # of a run here, and of the mirror there: each says who writes to its own side
# Larger files are written once and then stay: they may be copied piece by piece. One that grows
# is taken at one moment.
AT_ONCE = 2**26
DRAFTS = (".orbax-checkpoint-tmp", ".part.npy")

# Size and time of a file, by which a change is known, as rsync does.
Stat = tuple[int, int]


class Index(NamedTuple):
    """Which files are whole in a store; version: of each writing of it another."""

    version: str
    files: dict[str, Stat]


class Mirror:
    """See the module; `folder` is here, in the cache, and is called as the one at the URL is."""

    def __init__(self, url: str, *, where: str):
        """Find the folder here that belongs to a URL; nothing is asked or written yet.

        Raises:
          ValueError: the scheme is unknown, or its package not installed.
        """
        self.url, self.where = url.rstrip("/"), where
        with remote.explained(url, where=where):
            self._store, root = remote.open_store(self.url)
        if "file" in _protocols(self._store):
            self._store.auto_mkdir = True  # a disk has folders, that a bucket does not need
        self._root = root.rstrip("/")
        key = hashlib.sha256(self._store.unstrip_protocol(self._root).encode()).hexdigest()[:16]
        parts = [part for part in self._root.split("/") if part not in ("", ".", "..")]
        self.folder = (remote.folder("workdirs") / key).joinpath(*parts)
        self._record = self.folder.with_name(f".{self.folder.name}.{INDEX}")
        self._sent: dict[str, Stat] = {}

    # -- both ways ---------------------------------------------------------------------------------

    def fill(self) -> None:
        """Make the folder here equal to the one there, unless it has gone on from just that.

        Raises:
          ValueError: the store cannot be read.
        """
        with remote.explained(self.url, where=self.where):
            listed, index, known = self._listed(), self._index(), self._known()
            there = index.files if index else dict.fromkeys(listed, (-1, -1))
            names = {name for name in there if name in listed}
            if index and known and index.version == known.version:
                # What a reader has added comes too, and what somebody has removed here: else it
                # would be removed there.
                names = {name for name in names if self._is_missing(name)}
            else:
                self._drop_others(names, there)
            for name in sorted(names):
                if _stat(self.folder / name) != there[name]:
                    self._get(name, there[name])
            if index:
                self._remember(index)

    def begin(self) -> None:
        """Write INDEX where there is none, and remove what a killed run left half copied."""
        if (index := self._index()) is None:
            self._write(Index(uuid.uuid4().hex, {}))
        else:
            halves = {name for name in self._listed() if _is_part(name)} - index.files.keys()
            self._remove(halves)

    def send(self) -> bool:
        """Copy what has changed here, and remove what is gone; returns whether anything was.

        Raises:
          Exception: whatever the store raises; what INDEX names is still whole there.
        """
        while True:
            found = scan(self.folder)
            if found == self._sent:
                return False
            with contextlib.suppress(_Vanished):  # such as a checkpoint that is not kept
                self._put_all(found)
                break
        gone = [name for name in self._sent if name not in found]
        self._write(Index(uuid.uuid4().hex, found))
        self._remove(gone)
        return True

    def add(self, before: dict[str, Stat]) -> None:
        """Copy what a reader has added since a `scan`, beside what a run there may be writing."""
        found = scan(self.folder)
        new = {name: stat for name, stat in found.items() if before.get(name) != stat}
        self._put_all(new)
        if new and (index := self._index()):
            self._write(Index(index.version, index.files | new))

    def end(self) -> None:
        """Remove INDEX where nothing is: a run that was refused leaves nothing."""
        if not scan(self.folder) and not self._sent:
            self._remove([INDEX])
            self._record.unlink(missing_ok=True)

    # -- single objects ----------------------------------------------------------------------------

    def read(self, name: str) -> bytes | None:
        """Return what an object holds now; None where there is none."""
        self._store.invalidate_cache()
        try:
            return self._store.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write an object; whoever reads sees all of it or what was there before."""
        self._store.pipe_file(f"{self._root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._remove([name])

    # -- parts -------------------------------------------------------------------------------------

    def _put_all(self, found: dict[str, Stat]) -> None:
        for name, stat in found.items():
            if self._sent.get(name) != stat:
                self._put(name)

    def _put(self, name: str) -> None:
        path, target = self.folder / name, f"{self._root}/{name}"
        try:
            if path.stat().st_size > AT_ONCE:
                self._store.put_file(str(path), target)
                return
            content = path.read_bytes()
        except FileNotFoundError:
            if path.exists():  # then it is the store that misses something
                raise
            raise _Vanished from None
        self._store.pipe_file(target, content)

    def _get(self, name: str, stat: Stat) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        self._store.get_file(f"{self._root}/{name}", str(draft))
        # With its time there, so that it is known for the same later; not of one that is newer.
        if draft.stat().st_size == stat[0]:
            os.utime(draft, ns=(stat[1], stat[1]))
        draft.replace(path)

    def _remove(self, names) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._store.rm_file(f"{self._root}/{name}")

    def _listed(self) -> set[str]:
        """List all objects there but those of the mirror itself."""
        self._store.invalidate_cache()
        start = f"{self._root}/"  # of a store, "mine" is the beginning of "mine2" as well
        found = {p.removeprefix(start) for p in self._store.find(self._root) if p.startswith(start)}
        # An object may have any name, also one that leads out of the folder.
        is_inside = lambda name: not {"", ".", ".."} & set(name.split("/"))
        return {name for name in found - {INDEX, LOCKS} if is_inside(name)}

    def _is_missing(self, name: str) -> bool:
        """Return whether a file is gone, and not since what it was of is another one by now."""
        path = self.folder / name
        folders = [each for each in path.parents if each.is_relative_to(self.folder)]
        return not path.exists() and not any((each / digest.NAME).exists() for each in folders)

    def _drop_others(self, names: set[str], there: dict[str, Stat]) -> None:
        for path in [each for each in self.folder.rglob("*") if each.is_file()]:
            name = path.relative_to(self.folder).as_posix()
            if name not in names or _stat(path) != there[name]:
                path.unlink()
        # A step without a file would pass for a checkpoint.
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _index(self) -> Index | None:
        content = self.read(INDEX)
        return None if content is None else _parsed(content, f"{self.url}/{INDEX}")

    def _known(self) -> Index | None:
        """Return the index that this folder was last equal to."""
        if not self._record.is_file() or not self.folder.is_dir():
            return None
        try:
            return _parsed(self._record.read_bytes(), str(self._record))
        except ValueError:  # cut short by a crash: what is there replaces what is here
            return None

    def _write(self, index: Index) -> None:
        content = json.dumps(index._asdict(), indent=1).encode()
        self.write(INDEX, content)
        self._remember(index)

    def _remember(self, index: Index) -> None:
        self._sent = dict(index.files)
        files.write_text(self._record, json.dumps(index._asdict()))


class _Vanished(Exception):
    """A file here was removed between the listing and its copying."""


def scan(folder: pathlib.Path) -> dict[str, Stat]:
    """List the files of a folder that are whole: no drafts, no locks, no half of a checkpoint."""
    # Twice, steps first: what a run wrote before a checkpoint is then there beside it, and not
    # missing because it was listed too early.
    early = {name: stat for name, stat in _walk(folder) if _is_part(name)}
    late = {name: stat for name, stat in _walk(folder) if not _is_part(name)}
    found = early | late
    for name in [each for each in found if each.rpartition("/")[2] == digest.NAME]:
        own = name.removesuffix(digest.NAME)
        if not _names(folder / name) <= {each.removeprefix(own) for each in found}:
            found = {each: stat for each, stat in found.items() if not each.startswith(own)}
    # One without a digest is being removed.
    of = {name for name in found if _is_part(name)}
    signed = {_step(name) for name in of if name == f"{_step(name)}/{digest.NAME}"}
    return {k: stat for k, stat in sorted(found.items()) if k not in of or _step(k) in signed}


def _walk(folder: pathlib.Path) -> Iterator[tuple[str, Stat]]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        parts = name.split("/")
        if parts[-1] == LOCKS or name == INDEX or any(part.startswith(".") for part in parts):
            continue
        if any(draft in part for part in parts for draft in DRAFTS):
            continue
        stat = _stat(path)
        if stat is not None:
            yield name, stat


def _stat(path: pathlib.Path) -> Stat | None:
    """Return size and time of a file; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_size, found.st_mtime_ns) if path.is_file() else None


def _names(path: pathlib.Path) -> set[str]:
    """Return the files that a digest.json lists."""
    try:
        return set(json.loads(path.read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # damaged: the run that reads it says so


def _is_part(name: str) -> bool:
    """Return whether a file is of a step: checkpoints/<number>/..., maybe within a folder."""
    return bool(_step(name))


def _step(name: str) -> str:
    """Return the folder of the step that a file is of, "" of any other."""
    parts = name.split("/")
    for i, part in enumerate(parts[:-2]):
        if part == "checkpoints" and parts[i + 1].isdigit():
            return "/".join(parts[: i + 2])
    return ""


def _protocols(store: Any) -> tuple[str, ...]:
    return (store.protocol,) if isinstance(store.protocol, str) else tuple(store.protocol)


def _parsed(content: bytes, path: str) -> Index:
    """Read an index.

    Raises:
      ValueError: it is none.
    """
    found = files.json_object(path, content)
    try:
        stats = {name: (int(size), int(time)) for name, (size, time) in found["files"].items()}
        return Index(str(found["version"]), stats)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(
            f"{path}: got a file that lists no files; expected what a run has written there; "
            "remove it, and all that lies there counts"
        ) from None
