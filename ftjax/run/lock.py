"""One writer per workdir: a lock that names host, process and start, and one write tried at once.

    with writer(Artifacts(workdir)): ...      # ValueError where nothing can be written

The lock of a process that has died on this host is taken over; whether one on another host is alive
cannot be known from here. What a killed process left half written is removed.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Iterator

from ftjax.core import files, processes
from ftjax.run.artifacts import Artifacts

OURS = ("seed", "model", "data", "optim", "steps")  # keys of config.json that a run's always has


@contextlib.contextmanager
def writer(artifacts: Artifacts) -> Iterator[None]:
    """Be the only run that writes to a workdir; the first process stands for all.

    Raises:
      ValueError: it is no directory, nothing can be written to it, it is not of a run, or another
        run writes to it.
    """
    processes.on_first(lambda: _take(artifacts))
    try:
        processes.on_first(lambda: _clean(artifacts))
        yield
    finally:
        if processes.is_first():
            artifacts.lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a config that was refused leaves nothing
                artifacts.checkpoints.rmdir()
                artifacts.workdir.rmdir()


def _take(artifacts: Artifacts) -> None:
    _check_place(artifacts)
    _lock(artifacts)


def _check_place(artifacts: Artifacts) -> None:
    """Check that the directories can be made, and are not of something else."""
    for folder in (artifacts.workdir, artifacts.checkpoints):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--workdir: got {folder}, a file; expected a directory; move it away")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe.{os.getpid()}.tmp"
            probe.write_bytes(b"0")
            probe.unlink()
        except OSError as error:
            raise ValueError(
                f"--workdir: got {folder}, which cannot be written to ({error}); expected a "
                "directory of yours with room; choose another"
            ) from None
        if folder == artifacts.workdir:
            _check_config(artifacts)


def _check_config(artifacts: Artifacts) -> None:
    if not artifacts.config.exists() or artifacts.has_checkpoint():
        return
    try:
        known = files.read_json(artifacts.config)
    except ValueError:
        known = {}
    if missing := [key for key in OURS if key not in known]:
        raise ValueError(
            f"--workdir: got {artifacts.workdir}, whose config.json has no {missing[0]!r}, so it "
            "is not of a run but of a model, say; expected a new directory, or one of a run; use "
            "another"
        )


def _lock(artifacts: Artifacts) -> None:
    own = {"host": socket.gethostname(), "pid": os.getpid(), "start": _started(os.getpid()),
           "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}  # fmt: skip
    while True:
        try:
            number = os.open(artifacts.lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _take_over(artifacts.lock)
            continue
        with os.fdopen(number, "w") as file:
            json.dump(own, file)
        return


def _take_over(lock: pathlib.Path) -> None:
    """Remove the lock of a dead process of this host.

    Raises:
      ValueError: its process lives, or may live elsewhere.
    """
    try:
        known = json.loads(lock.read_text())
        host, pid, start = known["host"], known["pid"], known["start"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        host, pid, start, known = None, None, None, {}
    if host == socket.gethostname() and _started(pid) != start:
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


def _started(pid: int) -> str | None:
    """Return when a process of this host began; None where there is none.

    A number alone does not name a process, for it is given out again.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # another user's: it lives
        pass
    try:
        # Field 22 of proc(5): clock ticks since the boot. The name before it may hold spaces.
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "unknown"


def _clean(artifacts: Artifacts) -> None:
    """Remove what killed processes left half written."""
    for folder in (artifacts.workdir, artifacts.evals, artifacts.samples, artifacts.reference):
        for pattern in (".*.tmp", ".*.new", "*.part.npy"):
            for left in folder.glob(pattern):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
