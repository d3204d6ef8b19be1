"""One writer per workdir: a lock that names host, process and start, and one write tried at once.

    with writer(Artifacts(workdir)): ...      # ValueError where nothing can be written

The lock of a process that has died on this host is taken over at once. One of another host, such as
a pod that was preempted, is watched: its owner touches it every BEAT_S seconds, and one that nobody
touched for DEAD_S is taken over. What a killed process left half written is removed.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator

from ftjax.core import files, periodic, processes
from ftjax.run.artifacts import Artifacts

# Rare enough for a network file system, often enough to be told from a dead run soon.
BEAT_S = 10.0
# Twelve beats: a network file system may show the time of a file a minute late.
DEAD_S = 120.0
OURS = ("seed", "model", "data", "optim", "steps")  # keys of config.json that a run's always has


@contextlib.contextmanager
def writer(artifacts: Artifacts) -> Iterator[None]:
    """Be the only run that writes to a workdir; the first process stands for all.

    Raises:
      ValueError: it is no directory, nothing can be written to it, it is not of a run, or another
        run writes to it.
      RuntimeError: the same, in the other processes, which end as the first does.
    """
    with contextlib.ExitStack() as stack:
        processes.on_first(lambda: _acquire(artifacts, stack))
        yield


def _acquire(artifacts: Artifacts, stack: contextlib.ExitStack) -> None:
    """Lock the workdir until `stack` closes."""
    _check_place(artifacts)
    _lock(artifacts)
    stack.callback(_remove_empty, artifacts)  # the last of all
    # It names this very process: another text there later means another owner.
    own = artifacts.lock.read_text()
    # Runs after the beat has ended, which ends this process where the lock is another's.
    stack.callback(_unlock, artifacts.lock, own)
    stack.enter_context(_beating(artifacts.lock, own))
    # Under the lock: drafts that another run is writing are no leftovers.
    _clean(artifacts)


def _unlock(lock: pathlib.Path, own: str) -> None:
    """Remove the lock, unless another run has it by now."""
    with contextlib.suppress(OSError):
        if lock.read_text() == own:
            lock.unlink()


def _remove_empty(artifacts: Artifacts) -> None:
    """Remove directories without a file: a config that was refused leaves nothing."""
    with contextlib.suppress(OSError):
        # rmdir refuses a folder that holds anything.
        artifacts.checkpoints.rmdir()
        artifacts.workdir.rmdir()


def _check_place(artifacts: Artifacts) -> None:
    """Check that the directories can be made, and are not of something else."""
    for folder in (artifacts.workdir, artifacts.checkpoints):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--workdir: got {folder}, a file; expected a directory; move it away")
        try:
            files.try_write(folder)
        except OSError as error:
            raise ValueError(
                f"--workdir: got {folder}, which cannot be written to ({error}); expected a "
                "directory of yours with room; choose another"
            ) from None
        if folder == artifacts.workdir:
            _check_config(artifacts)


def _check_config(artifacts: Artifacts) -> None:
    # What has saved is a run's, whatever became of its config.
    if not artifacts.config.exists() or artifacts.has_checkpoint():
        return
    try:
        known = files.read_json(artifacts.config)
    except ValueError:
        # Cut short or no JSON: then it has none of our keys, which is refused just below.
        known = {}
    if missing := [key for key in OURS if key not in known]:
        raise ValueError(
            f"--workdir: got {artifacts.workdir}, whose config.json has no {missing[0]!r}, so it "
            "is not of a run but of a model, say; expected a new directory, or one of a run; use "
            "another"
        )


def _lock(artifacts: Artifacts) -> None:
    own = {"host": socket.gethostname(), "pid": os.getpid(), "start": started(os.getpid()),
           "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}  # fmt: skip
    while True:
        try:
            # O_EXCL: of several that try, one alone creates it.
            number = os.open(artifacts.lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _take_over(artifacts.lock)
            continue
        with os.fdopen(number, "w") as file:
            json.dump(own, file)
        return


def is_held(artifacts: Artifacts) -> bool:
    """Return whether a run that lives writes to a workdir; waits for nothing."""
    try:
        known = _read(artifacts.lock)
        # A process of this host can be asked for; of another only the time of its lock tells.
        if known.get("host") == socket.gethostname():
            return started(known["pid"]) == known["start"]
        return _age(artifacts.lock) < DEAD_S
    except FileNotFoundError:
        return False


def _read(lock: pathlib.Path) -> dict:
    """Return what a lock says; nothing where a crash cut it short: its time alone can tell."""
    try:
        known = json.loads(lock.read_text())
        return known | {key: known[key] for key in ("host", "pid", "start")}
    except (ValueError, KeyError, TypeError):
        # No JSON, no keys, or no object: all the same half-written file.
        return {}


def _take_over(lock: pathlib.Path) -> None:
    """Remove the lock of a dead process.

    Raises:
      ValueError: its process lives.
    """
    try:
        known = _read(lock)
    except FileNotFoundError:
        # Unlocked meanwhile: the caller tries again.
        return
    host, pid = known.get("host"), known.get("pid")
    is_here = host == socket.gethostname()
    if started(pid) != known["start"] if is_here else _is_dead(lock, host):
        # Renamed first: of several that see a dead lock, one alone gets it.
        with contextlib.suppress(FileNotFoundError):
            stale = lock.with_name(f".{lock.name}.{os.getpid()}.tmp")
            lock.rename(stale)
            stale.unlink()
        return
    raise ValueError(
        f"--workdir: got {lock.parent}, which process {pid} on {host} writes to since "
        f"{known.get('time')}; expected one run per workdir; wait for it, choose another workdir, "
        f"or remove {lock} if that run has ended"
    )


def _is_dead(lock: pathlib.Path, host: str | None) -> bool:
    """Watch a lock until it is touched (False), or was not for DEAD_S (True)."""
    try:
        first, age = lock.stat().st_mtime_ns, _age(lock)
        if age < DEAD_S:
            sys.stderr.write(
                f"{lock}: of {host}, touched {age:.0f} s ago; taken over at {DEAD_S:.0f} s\n"
            )
        while _age(lock) < DEAD_S:
            # A part of the wait, so that a test with a short one does not sleep past it.
            time.sleep(min(1.0, DEAD_S / 10))
            if lock.stat().st_mtime_ns != first:
                return False
    except FileNotFoundError:  # its run has ended in order
        pass
    return True


def _age(lock: pathlib.Path) -> float:
    """Return the seconds since a lock was touched, by the clock of its file system.

    That of this host may be minutes away from it.
    """
    probe = lock.with_name(f".{lock.name}.probe.{os.getpid()}.tmp")
    probe.write_bytes(b"")
    try:
        # Opened, since a network file system may answer from its cache otherwise.
        with lock.open() as file:
            return probe.stat().st_mtime - os.fstat(file.fileno()).st_mtime
    finally:
        probe.unlink()


def _beating(lock: pathlib.Path, own: str) -> contextlib.AbstractContextManager[None]:
    """Touch the lock, which holds `own`, every BEAT_S seconds, until the block ends."""

    def beat(ended: threading.Event) -> None:
        with contextlib.suppress(OSError):  # a file system that is away may come back
            if lock.read_text() != own and not ended.is_set():
                leave(lock)
            os.utime(lock)

    return periodic.every(BEAT_S, beat, name="lock")


def leave(lock: pathlib.Path | str) -> None:
    """End this process as a kill would: it was suspended so long that another run took over."""
    sys.stderr.write(f"{lock}: another run has taken it over; this one writes nothing more\n")
    sys.stderr.flush()
    # Not sys.exit: in a thread that ends the thread, and cleanups would still write.
    os._exit(1)


def started(pid: int) -> str | None:
    """Return when a process of this host began; None where there is none.

    A number alone does not name a process, for it is given out again.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        # The number is free: nobody writes any more.
        return None
    except PermissionError:  # another user's: it lives
        pass
    try:
        # Fields 3 and 22 of proc(5): the state, and clock ticks since the boot. The name before
        # them may hold spaces.
        state, *fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        # Without /proc, as on macOS, a number alone must do.
        return "unknown"
    # A dead process keeps its number until its parent asks, which that of a container may not.
    return None if state in "ZX" else fields[18]


def _clean(artifacts: Artifacts) -> None:
    """Remove what killed processes left half written."""
    for folder in (artifacts.workdir, artifacts.evals, artifacts.samples, artifacts.reference):
        # Drafts of files, of exports and of the reference.
        for pattern in (".*.tmp", ".*.new", "*.part.npy"):
            for left in folder.glob(pattern):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
