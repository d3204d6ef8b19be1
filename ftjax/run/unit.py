"""How a job of a sweep stands, in its workdir alone: `unit.json`, which outlives any launcher.

    submit(artifacts)                     a launcher has taken the job
    with Recorded(artifacts): ...         in the run itself: running, then how it ended
    read(artifacts).state                 what anybody may ask, at any time

Only a workdir that a launcher has marked has the file; other runs write none.
"""

import dataclasses
import time

from ftjax.core import errors, files, processes
from ftjax.run import lock
from ftjax.run.artifacts import Artifacts

# In the file, but for "new" (there is none) and "stale" (running by its file, and nobody runs it).
STATES = ("new", "submitted", "running", "stale", "stopped", "done", "failed", "diverged")
OPEN = ("new", "stale", "stopped")  # what a launch takes up
ENDED = ("done", "failed", "diverged")


@dataclasses.dataclass(frozen=True)
class Unit:
    """A job: its state, how often it began, its last logged step, and the reason of a bad end.

    heartbeat: when the file was last written, in seconds since the epoch. begun: the same of the
    present attempt. seconds: of the attempts before it.
    """

    state: str = "new"
    attempt: int = 0
    step: int = 0
    heartbeat: float = 0.0
    begun: float = 0.0
    seconds: float = 0.0
    reason: str = ""

    @property
    def spent(self) -> float:
        """Seconds of all attempts."""
        # An attempt that was killed counts up to its last heartbeat.
        is_open = self.state in ("running", "stale")
        return self.seconds + (self.heartbeat - self.begun if is_open else 0.0)


def read(artifacts: Artifacts) -> Unit:
    """Return how the job in a workdir stands.

    Raises:
      ValueError: its file is not one of ours.
    """
    found = _read(artifacts)
    # The lock tells: a process that was killed could not write its end.
    if found.state == "running" and not lock.is_held(artifacts):
        return dataclasses.replace(found, state="stale")
    return found


def submit(artifacts: Artifacts) -> None:
    """Mark a job as taken by a launcher, which makes its run keep the file."""
    found = _read(artifacts)
    _write(artifacts, found, state="submitted", seconds=found.spent, reason="")


def fail(artifacts: Artifacts, reason: str) -> None:
    """Record the end of a job whose process ended before it could say why."""
    found = _read(artifacts)
    _write(artifacts, found, state="failed", seconds=found.spent, reason=reason)


def finish(artifacts: Artifacts, *, reason: str = "") -> None:
    """Mark a job as done; its run calls it last. reason: why it ended before its last step."""
    if _is_kept(artifacts):
        found = _read(artifacts)
        _write(artifacts, found, state="done", seconds=_spent_now(found), reason=reason)


class Recorded:
    """A context that records that a job runs, and how it ends; the workdir's lock is held inside.

    Whatever ends it is recorded, a fault of ours too: a job without an end is begun again.
    """

    def __init__(self, artifacts: Artifacts):
        self._artifacts, self._kept = artifacts, _is_kept(artifacts)

    def __enter__(self) -> None:
        if self._kept:
            found = _read(self._artifacts)
            # Of the wall clock, since other processes read it and subtract.
            changes = dict(attempt=found.attempt + 1, begun=time.time(), seconds=found.spent)
            _write(self._artifacts, found, state="running", reason="", **changes)

    def __exit__(self, kind, error, trace) -> None:
        if not self._kept:
            return
        found, state = _read(self._artifacts), _state_after(error)
        # `finish` has recorded it; this is the end of the process.
        if error is None and found.state == "done":
            return
        reason = "" if state == "stopped" else " ".join(f"{error}".split())
        # Our messages say all there is; of other errors the type is half of it.
        if state == "failed" and not isinstance(error, errors.MESSAGES):
            reason = f"{kind.__name__}: {reason}"
        _write(self._artifacts, found, state=state, seconds=_spent_now(found), reason=reason)


def _state_after(error: BaseException | None) -> str:
    if error is None or isinstance(error, KeyboardInterrupt | SystemExit):
        return "stopped"  # by a signal: the loop returns, and what is outside it leaves
    return "diverged" if isinstance(error, FloatingPointError) else "failed"


def _spent_now(found: Unit) -> float:
    return found.seconds + time.time() - found.begun


class Progress:
    """A writer of metrics that keeps the step of a job current."""

    def __init__(self, artifacts: Artifacts):
        self._artifacts, self._kept = artifacts, _is_kept(artifacts)

    def write(self, step: int, row: dict) -> None:
        """Record the step."""
        if self._kept:
            _write(self._artifacts, _read(self._artifacts), step=step)

    def rewind(self, step: int) -> None:
        """Record the step that the run goes on from."""
        # A run that has saved nothing goes back to -1.
        self.write(max(step, 0), {})

    def close(self) -> None:
        """Do nothing: how the job ends is recorded elsewhere."""


def _is_kept(artifacts: Artifacts) -> bool:
    return processes.is_first() and artifacts.unit.exists()


def _read(artifacts: Artifacts) -> Unit:
    if not artifacts.unit.exists():
        return Unit()
    known = files.read_json(artifacts.unit)
    try:
        # Another version of the program may have written other keys.
        found = Unit(**known)
    except TypeError:
        found = Unit(state="")
    if found.state not in STATES:
        raise ValueError(
            f"{artifacts.unit}: got {sorted(known)} with the state {known.get('state')!r}; "
            f"expected one of {', '.join(STATES)}; remove the file to begin the job anew"
        )
    return found


def _write(artifacts: Artifacts, found: Unit, **changes) -> None:
    own = dataclasses.replace(found, heartbeat=time.time(), **changes)
    files.write_json(artifacts.unit, dataclasses.asdict(own))
