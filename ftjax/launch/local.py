"""Jobs on this machine, several at a time: each worker is the trainer itself, in a process.

A launcher that is asked to stop asks its workers, which save and leave; on Linux so does one that
is killed. What a run does not do alone (a second run in its workdir, a finished one) is decided by
the workdirs, so launchers that share them share the work.
"""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

from ftjax.core.typed import Count, Natural
from ftjax.launch.lib.engine import Engine, Submission
from ftjax.launch.lib.jobs import Job
from ftjax.run import unit

POLL_S = 0.2
# Asks to be sent SIGTERM when the launcher is gone (PR_SET_PDEATHSIG of prctl(2)), and becomes the
# trainer. Not a function between fork and exec: jax's threads, where it is in use, may hold locks.
FOLLOW = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
)


def make(*, workers: Count = 1, gpus: Iterable[Natural] = ()) -> Engine:
    """Run `workers` jobs at a time.

    gpus: their numbers, one a worker; without them every worker sees all devices.

    Raises:
      ValueError: there are fewer GPUs than workers.
    """
    gpus = tuple(gpus)
    if gpus and len(gpus) < workers:
        raise ValueError(
            f"--option workers: got {workers} for the GPUs {list(gpus)}; expected one a worker; "
            f"use workers={len(gpus)}"
        )
    submit = functools.partial(_submit, workers=workers, gpus=gpus)
    return Engine("", submission, submit)


def submission(jobs: Sequence[Job], root: pathlib.Path) -> Submission:
    """List the command of every job."""
    # One process alone, whatever cluster this machine belongs to.
    return Submission({}, [[sys.executable, "-m", *job.command, "--processes=1"] for job in jobs])


def _submit(
    what: Submission, jobs: Sequence[Job], *, workers: int, gpus: tuple[int, ...]
) -> None:  # fmt: skip
    waiting = list(zip(jobs, what.commands, strict=True))
    busy: dict[int, tuple[Job, subprocess.Popen]] = {}
    with _Stopping() as stopping:
        while busy or (waiting and not stopping.asked):
            if stopping.asked:
                for _, process in busy.values():
                    process.terminate()
                stopping.asked, waiting = False, []
            for slot in [slot for slot, (_, p) in busy.items() if p.poll() is not None]:
                _ended(*busy.pop(slot))
            for slot in [slot for slot in range(workers) if slot not in busy]:
                if taken := _next(waiting):
                    busy[slot] = taken[0], _start(*taken, gpu=gpus[slot] if gpus else None)
            time.sleep(POLL_S)


def _next(waiting: list) -> tuple[Job, Sequence[str]] | None:
    """Take the next job that nobody else runs or has ended; those of others stay until they end."""
    for entry in list(waiting):
        state = unit.read(entry[0].artifacts).state
        if state != "running":
            waiting.remove(entry)
        if state not in (*unit.ENDED, "running"):
            return entry
    return None


def _start(job: Job, command: Sequence[str], *, gpu: int | None) -> subprocess.Popen:
    variables = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)})
    follow = [sys.executable, "-c", FOLLOW] if sys.platform == "linux" else []
    sys.stdout.write(f"{job.id} begins: {job.label}\n")
    sys.stdout.flush()
    with job.artifacts.log.open("ab") as log:
        return subprocess.Popen(
            [*follow, *command], env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _ended(job: Job, process: subprocess.Popen) -> None:
    found = unit.read(job.artifacts)
    if process.returncode > 0 and found.state in ("submitted", "stale"):
        # It ended before it could say why, or without: the next launch would only repeat it.
        unit.fail(job.artifacts, f"exit code {process.returncode}: {_last_line(job)}")
        found = unit.read(job.artifacts)
    reason = f": {found.reason}" if found.reason else ""
    sys.stdout.write(f"{job.id} {found.state}{reason}\n")
    sys.stdout.flush()


def _last_line(job: Job) -> str:
    text = job.artifacts.log.read_text(encoding="utf-8", errors="replace")
    return next(
        (line for line in reversed(text.splitlines()) if line.strip()), "it printed nothing"
    )


class _Stopping:
    """A context in which SIGTERM and control-C only set a flag."""

    def __init__(self):
        self.asked, self._before = False, {}

    def __enter__(self) -> "_Stopping":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame) -> None:
        self.asked = True
        sys.stderr.write(f"\n{signal.Signals(number).name}: waiting for the workers to save\n")
