"""Workdirs at URLs: a run works in a folder of this machine, which is mirrored to its bucket.

    with workdirs.opened("gs://bucket/runs/mine") as workdir: ...   # to write: locked and mirrored
    with workdirs.read("gs://bucket/runs/mine") as workdir: ...     # to read what is there now

A path is itself in both. The folder is filled as it is opened, so a run goes on that another
machine began. What it writes follows it every SEND_S seconds and at its end, a checkpoint when it
is whole; uploads that fail are tried again, and what never arrives stays in the folder here. One
run at a time writes to a URL: its lock is an object there, beaten like that of a folder.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import time
import uuid
from collections.abc import Iterator

from ftjax.core import files, mirror, periodic, phases, processes, remote
from ftjax.core.mirror import LOCKS, Mirror
from ftjax.run import lock

WHERE = "--workdir"
SEND_S = 20.0
# Between writing a lock and reading it again: whoever has seen none before has written by then.
SETTLE_S = 2.0
# Clocks of hosts do not differ by more: an older lock needs no watching.
LONG_S = 3600.0
TRIES = 5  # at the end, with 1, 2, 4 and 8 seconds between them


@contextlib.contextmanager
def opened(place: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Be the only one that writes to a workdir, wherever it is; yields its folder here.

    A folder of this machine is locked by the runs in it, see `lock`.

    Raises:
      ValueError: the URL cannot be read or written, another run writes to it, or the processes of
        this run share no cache.
      RuntimeError: the same, in the other processes.
    """
    if not remote.is_url(place):
        yield pathlib.Path(place)
        return
    own = _mirror(place)
    with contextlib.ExitStack() as stack:
        processes.on_first(lambda: _begin(own, stack))
        _check_shared(own)
        yield own.folder


@contextlib.contextmanager
def read(place: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Bring a workdir here as it is now; files that are added to it go to its URL at the end.

    Raises:
      ValueError: the URL cannot be read, or the processes share no cache.
    """
    if not remote.is_url(place):
        yield pathlib.Path(place)
        return
    own = _mirror(place)
    is_live = processes.on_first(lambda: _fill(own))
    _check_shared(own)
    before = mirror.scan(own.folder)
    yield own.folder
    if processes.is_first() and not is_live:
        with remote.explained(own.url, where=WHERE):
            own.add(before)


def _mirror(place: str | os.PathLike) -> Mirror:
    if not isinstance(place, str):
        # pathlib leaves one slash of two, and no store is found by that.
        raise ValueError(f"{WHERE}: got the path {place}; expected a URL as text; quote it")
    return Mirror(place, where=WHERE)


def _begin(own: Mirror, stack: contextlib.ExitStack) -> None:
    """Lock and fill; when `stack` closes, the last files are sent and the lock is removed."""
    with remote.explained(own.url, where=WHERE):
        text = _acquire(own)
    stack.callback(_release, own, text["id"])
    with _waiting(own.url), remote.explained(own.url, where=WHERE):
        own.fill()
        own.begin()
    # Before the beats end: the lock is this run's until its last file has arrived.
    stack.enter_context(periodic.every(lock.BEAT_S, lambda _: _beat(own, text), name="workdir"))
    stack.push(lambda kind, error, trace: _finish(own, failed=error is not None))
    sending = _Sending(own)
    stack.enter_context(periodic.every(SEND_S, lambda _: sending.try_once(), name="workdir"))


def _fill(own: Mirror) -> bool:
    """Fill the folder for a reader; returns whether a run of this host works in it just now."""
    import filelock

    with remote.explained(own.url, where=WHERE):
        known = own.read(LOCKS)
        if known is not None and own.folder.is_dir() and _lives_here(_parsed(known)):
            return True
        own.folder.mkdir(parents=True, exist_ok=True)
        # Several readers of a host share the folder.
        path = own.folder.with_name(f".{own.folder.name}.lock")
        with filelock.FileLock(path), _waiting(own.url):
            own.fill()
    return False


def _waiting(url: str) -> contextlib.AbstractContextManager:
    return phases.named(f"copying {url} here")


def _check_shared(own: Mirror) -> None:
    """Check that all processes see the folder that the first has filled."""

    def put() -> str:
        path = own.folder.with_name(f".{own.folder.name}.shared")
        return files.write_text(path, uuid.uuid4().hex).read_text()

    token = processes.on_first(put)
    path = own.folder.with_name(f".{own.folder.name}.shared")
    is_seen = path.is_file() and path.read_text() == token
    if processes.any_process(not is_seen):
        raise ValueError(
            f"{WHERE}: got {own.url!r} for processes that do not all see {own.folder}, where the "
            "first works; expected a cache folder that they share; set FTJAX_CACHE to one of a "
            "file system that all hosts mount, or mount the bucket and name the mount"
        )


# -- sending ---------------------------------------------------------------------------------------


class _Sending:
    """Sends again and again; of failures, the first of several in a row is said."""

    def __init__(self, own: Mirror):
        self._own, self._has_failed = own, False

    def try_once(self) -> None:
        with _Caught() as caught:
            self._own.send()
        if caught.error and not self._has_failed:
            said = _line(caught.error)
            _say(f"{self._own.url}: not written ({said}); tried again as it runs")
        if self._has_failed and not caught.error:
            _say(f"{self._own.url}: written again")
        self._has_failed = bool(caught.error)


class _Caught:
    """A block that may fail in any way: the clients of stores have errors of classes of their own.

    error: what it raised, None where nothing.
    """

    error: Exception | None = None

    def __enter__(self) -> "_Caught":
        return self

    def __exit__(self, kind, error, trace) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


def _finish(own: Mirror, *, failed: bool) -> None:
    """Send what is left; failed: the run has ended by an error, which is the one to show.

    Raises:
      ValueError: it cannot be sent.
    """
    for number in range(TRIES):
        with _Caught() as caught, phases.named(f"copying to {own.url}"):
            own.send()
            own.end()
        if not caught.error:
            _say(f"{own.url}: as {own.folder}")
            return
        if number + 1 < TRIES:
            time.sleep(2**number)
    text = (
        f"{WHERE}: got {own.url!r}, to which the last files could not be written "
        f"({_line(caught.error)}); expected a URL that this machine may write; all of the run is "
        f"in {own.folder}: the same command on this machine sends it, and goes on"
    )
    if not failed:
        raise ValueError(text)
    _say(text)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


# -- the lock --------------------------------------------------------------------------------------


def _acquire(own: Mirror) -> dict:
    """Lock a URL, and return what the lock says.

    A store creates an object for whoever writes last: written, and read again after a while, it is
    of one alone.

    Raises:
      ValueError: another run has it.
    """
    if (content := own.read(LOCKS)) is not None and not _is_dead(own, content):
        raise _taken(own, _parsed(content))
    text = {"host": socket.gethostname(), "pid": os.getpid(), "start": lock.started(os.getpid()),
            "time": time.time(), "id": uuid.uuid4().hex}  # fmt: skip
    own.write(LOCKS, json.dumps(text).encode())
    time.sleep(SETTLE_S)
    if (now := _parsed(own.read(LOCKS) or b""))["id"] != text["id"]:
        raise _taken(own, now)
    return text


def _release(own: Mirror, id_: str) -> None:
    # What cannot be removed is taken over later, as that of a dead process.
    with _Caught():
        if _parsed(own.read(LOCKS) or b"")["id"] == id_:
            own.remove(LOCKS)


def _beat(own: Mirror, text: dict) -> None:
    """Write the time into the lock; end this process where another run has taken it over."""
    with _Caught():  # a network that is away may come back
        content = own.read(LOCKS)
        if content is not None and _parsed(content)["id"] != text["id"]:
            lock.leave(f"{own.url}/{LOCKS}")
        own.write(LOCKS, json.dumps(text | {"time": time.time()}).encode())


def _parsed(content: bytes) -> dict:
    """Return what a lock says; of an unreadable one nothing but that it is old."""
    blank = {"host": None, "pid": None, "start": None, "time": 0.0, "id": ""}
    try:
        known = json.loads(content)
        found = {key: known[key] for key in blank} | {"time": float(known["time"])}
        return found if isinstance(found["pid"], int) else blank
    except (ValueError, KeyError, TypeError):
        return blank


def _lives_here(known: dict) -> bool:
    """Return whether the process of a lock runs on this host."""
    return known["host"] == socket.gethostname() and lock.started(known["pid"]) == known["start"]


def _is_dead(own: Mirror, content: bytes) -> bool:
    """Return whether the owner of a lock has died; that of another host is watched."""
    known = _parsed(content)
    if known["host"] == socket.gethostname():
        return not _lives_here(known)
    if time.time() - known["time"] > LONG_S:
        return True
    _say(f"{own.url}/{LOCKS}: of {known['host']}; taken over if it is not touched")
    # Two beats at least, since the clock of that host may be wrong.
    end = time.monotonic() + max(
        2.5 * lock.BEAT_S, lock.DEAD_S - max(0.0, time.time() - known["time"])
    )
    while time.monotonic() < end:
        time.sleep(min(1.0, lock.BEAT_S / 10))
        now = own.read(LOCKS)
        if now != content:
            return now is None  # its run has ended in order
    return True


def _taken(own: Mirror, known: dict) -> ValueError:
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(known["time"]))
    return ValueError(
        f"{WHERE}: got {own.url!r}, which process {known['pid']} on {known['host']} writes to, "
        f"seen {began}; expected one run per workdir; wait for it, choose another workdir, or "
        f"remove {own.url}/{LOCKS} if that run has ended"
    )
