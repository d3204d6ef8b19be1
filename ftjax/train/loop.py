"""The training loop: a plain function over a jitted step and an iterator of batches.

    state, progress = resume(checkpoints, state, batches, writers=writers)
    result = run(step, state, frozen, batches, until=1000, every=[Hook(100, evaluate)],
                 writers=writers, checkpoints=checkpoints, save_every_steps=200, progress=progress)

Metrics are read one step late: while the host waits for step k-1, the devices already work on step
k. Only where something looks at the state (an evaluation, a checkpoint, the end) does the loop
catch up, so no checkpoint is ever written of a loss that was not seen to be finite.
"""

import contextlib
import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from ftjax.core import phases, tree
from ftjax.report.writers import Writer
from ftjax.train import flops
from ftjax.train.checkpoint import CheckpointError, Checkpoints
from ftjax.train.journal import Journal
from ftjax.train.stop import Stop

Tree = Any


class StepInfo(NamedTuple):
    """What a hook sees: the state after `step`, and the frozen tree."""

    step: int
    state: Any
    frozen: Tree


class Hook(NamedTuple):
    """Call `call(now) -> dict of numbers` each `steps`, at the end, and before the first step."""

    steps: int
    call: Callable[[StepInfo], dict]
    at_start: bool = False


ENDED = ("done", "data ended")


class Result(NamedTuple):
    """How a run ended.

    stopped: "done", "data ended", "SIGTERM" or "SIGINT".
    row: the last logged numbers. tokens: all tokens seen, less padding. seconds: by phase, of this
    process. padding: positions without a token, None where the step does not count them.
    vanished: the step since which the gradient is zero, None where it is not; see `vanish`.
    rows: written since the run began, by all its processes; those of an earlier one may be lost.
    """

    state: Any
    step: int
    stopped: str
    row: dict
    tokens: int
    seconds: dict[str, float]
    padding: int | None = None
    vanished: int | None = None
    rows: int = 0


@runtime_checkable
class Positioned(Protocol):
    """Batches that know where they are, and can go back there."""

    def state(self) -> dict:
        """Return the position after the last batch given, for JSON."""

    def restore(self, position: dict) -> None:
        """Go to a position."""


def resume(
    checkpoints: Checkpoints, state: Any, batches: Positioned, *, writers: Sequence[Writer] = (),
    restart_data: bool = False,
) -> tuple[Any, dict | None]:  # fmt: skip
    """Restore state, data position and log from the newest good checkpoint.

    state: shapes, types and shardings of the one to restore, or such a state itself.
    restart_data: leave the data at their beginning, whatever they were when it was saved.

    Returns (state, progress for `run`); the state as given and None where nothing was saved.
    """
    restored = checkpoints.restore(state)
    if restored is None:
        # Rows of an attempt that died before its first save would be there twice.
        _rewind(writers, -1, rows=0)
        return state, None
    progress = restored.data["progress"]
    # A row that still waits for its evaluations is written again, whole.
    _rewind(writers, restored.step - (progress["row"] is not None), rows=progress["rows"])
    if restart_data:
        sys.stderr.write(f"--restart_data: the data start afresh after step {restored.step}\n")
    else:
        batches.restore(restored.data["batches"])
    return restored.state, progress


def _rewind(writers: Sequence[Writer], step: int, *, rows: int) -> None:
    """Rewind the log; what it has lost cannot be computed again, and is said."""
    for writer in writers if jax.process_index() == 0 else ():
        kept = writer.rewind(step)
        if kept is not None and kept != rows:
            warnings.warn(
                f"metrics.jsonl: got {kept} rows up to step {step}; expected {rows}; it was "
                "deleted or changed; the run goes on, and its curves lack what was there",
                RuntimeWarning,
                stacklevel=3,
            )


def run(
    step: Callable, state: Any, frozen: Tree, batches: Iterator, *, hyper: Tree = None, until: int,
    log_every_steps: int = 10, every: Sequence[Hook] = (), writers: Sequence[Writer] = (),
    checkpoints: Checkpoints | None = None, save_every_steps: int | None = None,
    progress: dict | None = None, flops_per_token: flops.Cost | None = None,
    count_tokens: Callable[[Any], int] = lambda batch: batch["tokens"].size,  # and padding
) -> Result:  # fmt: skip
    """Train from `state.step` until step `until`, and return how it ended.

    step: (state, hyper, frozen, batch) -> (state, metrics of `Mean`s and scalars with "loss"),
      jitted. hyper: numbers of the run that are no part of the program.
    checkpoints: saved each `save_every_steps`, at the end, and when asked to stop by SIGTERM or
      control-C; then `run` returns, and the process should leave with exit code 0.
    progress: from `resume`. flops_per_token: for MFU. Raises FloatingPointError on a loss that is
    not finite, CheckpointError when the last checkpoint cannot be written.
    """
    journal = Journal(
        # Metrics are reduced over the processes: one log holds them all.
        writers=writers if jax.process_index() == 0 else (), log_every_steps=log_every_steps,
        progress=progress, flops_per_token=flops_per_token,
    )  # fmt: skip
    # The one read of an array before the loop: the device is idle here anyway.
    first = int(state.step)
    ahead = _Ahead(batches, until - first, journal, count_tokens)
    call = _Calls(lambda state, batch: step(state, hyper, frozen, batch), step, journal)
    evaluations = _Evaluations(every, until, frozen, journal)
    keeper = _Keeper(checkpoints, ahead, save_every_steps, journal)
    state, number, stopped = _train(state, first, call, ahead, journal, evaluations, keeper)
    return _result(state, number, stopped, until, journal)


def _train(
    state: Any, first: int, call: "_Calls", ahead: "_Ahead", journal: Journal,
    evaluations: "_Evaluations", keeper: "_Keeper",
) -> tuple[Any, int, str | None]:  # fmt: skip
    """Go from batch to batch; returns the state, its step, and why it was asked to stop."""
    number, stopped = first, None
    evaluations.begin(first, state)
    with Stop() as stop:
        ahead.fetch()
        for number, batch in enumerate(ahead, first + 1):
            state, metrics = call(number, state, batch)
            journal.push(number, metrics, tokens=ahead.tokens, blame=keeper.blame(batch))
            ahead.fetch()
            # After the fetch: all processes have asked for the same batches when they agree.
            if stop.reached(number):
                stopped = stop.reason
                break
            if ahead.is_over:
                break
            row = evaluations.visit(number, state)
            keeper.visit(number, state, row)
    # A run that was complete when it began is not evaluated and saved again.
    if number > first and stopped is None:
        keeper.must_save(number, state, evaluations.last(number, state))
    elif number > first:
        keeper.must_save(number, state, *evaluations.put_off(number))
        sys.stderr.write(f"{stopped}: stopped after step {number}; saved {keeper.last()}\n")
    return state, number, stopped


def _result(state: Any, number: int, stopped: str | None, until: int, journal: Journal) -> Result:
    """Make the result; a run that ended before its last step, unasked, has no more data."""
    if stopped is None and number < until:
        stopped = "data ended"
        sys.stderr.write(f"data ended: after step {number} of {until}\n")
    return Result(
        state, number, stopped or "done", journal.row, journal.tokens, journal.seconds,
        padding=journal.padding, vanished=journal.gradient.warn(number), rows=journal.rows,
    )  # fmt: skip


class _Ahead:
    """Batches, the next of which is fetched while the devices work on one."""

    def __init__(self, batches: Iterator, count: int, journal: Journal, count_tokens: Callable):
        self._batches, self._left, self._journal = batches, count, journal
        self._count_tokens, self._next = count_tokens, None
        self.position: dict | None = None  # after the batches trained on, before the one fetched

    def fetch(self) -> None:
        """Note the position, and fetch one more batch where one is left."""
        # Taken before: the batch that is fetched is trained on after a save.
        self.position = self._batches.state() if isinstance(self._batches, Positioned) else None
        self._next = None
        if self._left > 0:
            self._left -= 1
            with self._journal.clock("data"):
                self._next = next(self._batches, None)

    def check_positioned(self) -> None:
        """Refuse batches that do not know where they are."""
        if not isinstance(self._batches, Positioned):
            raise ValueError(
                f"loop.batches: got {type(self._batches).__name__} without state() and restore(); "
                "expected a loader that can be resumed, since checkpoints are on"
            )

    @property
    def tokens(self) -> int:
        """Positions of the batch, padding included."""
        return self._count_tokens(self._next)

    @property
    def is_over(self) -> bool:
        """Whether no batch is left."""
        return self._next is None

    def __iter__(self) -> "_Ahead":
        return self

    def __next__(self) -> Any:
        if self._next is None:
            raise StopIteration
        return self._next


class _Evaluations:
    """Calls the hooks that are due, and writes their rows."""

    def __init__(self, every: Sequence[Hook], until: int, frozen: Tree, journal: Journal):
        self._every, self._until, self._frozen, self._journal = every, until, frozen, journal

    def begin(self, number: int, state: Any) -> None:
        """Evaluate before the first step, or where a stopped run had no time left to."""
        row = self._journal.unfinished
        if row is not None:
            self._journal.write(number, row | self._call(self._due(number), number, state))
        elif number == 0:
            # A resumed run was evaluated by the process that began it.
            hooks = [hook for hook in self._every if hook.at_start]
            self._journal.write(number, self._call(hooks, number, state))

    def visit(self, number: int, state: Any) -> dict:
        """Evaluate where it is time; returns the row, empty where it is not."""
        if not (hooks := self._due(number)):
            return {}
        row = self._journal.catch_up() | self._call(hooks, number, state)
        self._journal.write(number, row)
        return row

    def last(self, number: int, state: Any) -> dict:
        """Evaluate all there is after the last step; returns the row."""
        row = self._journal.catch_up(log=True) | self._call(self._every, number, state)
        self._journal.write(number, row)
        return row

    def put_off(self, number: int) -> tuple[dict, dict | None]:
        """Leave what is due now to the process that goes on: a scheduler grants seconds.

        Returns the row, and the same where its evaluations are missing.
        """
        row = self._journal.catch_up(log=number >= self._until)
        if self._due(number):
            return row, row
        self._journal.write(number, row)
        return row, None

    def _due(self, number: int) -> list[Hook]:
        is_last = number >= self._until
        return [hook for hook in self._every if is_last or number % hook.steps == 0]

    def _call(self, hooks: Sequence[Hook], number: int, state: Any) -> dict:
        row: dict = {}
        with self._journal.clock("eval"):
            for hook in hooks:
                row |= hook.call(StepInfo(number, state, self._frozen)) or {}
        return row


class _Keeper:
    """Saves state, data position and progress together."""

    def __init__(self, checkpoints, ahead: _Ahead, every_steps: int | None, journal: Journal):
        if checkpoints is not None:
            ahead.check_positioned()  # at the start and not at the first save, hours later
        self._checkpoints, self._ahead, self._journal = checkpoints, ahead, journal
        self._every_steps = every_steps

    def visit(self, number: int, state: Any, row: dict) -> None:
        """Save in the background where it is time; a failure is a warning: the run is worth more.

        row: of the evaluations of this step, empty where none was due.
        """
        if not self._is_due(number, evaluated=bool(row)):
            return
        if not row:
            row = self._journal.catch_up()
            self._journal.write(number, row)
        # Two attempts apart: the failure of the save before must not keep this one from being
        # tried.
        for attempt in (self._checkpoints.wait, lambda: self._save(number, state, row, None)):
            try:
                with self._journal.clock("checkpoint"):
                    attempt()
            except CheckpointError as error:
                warnings.warn(f"{error}; training goes on", RuntimeWarning, stacklevel=2)

    def must_save(self, number: int, state: Any, row: dict, unfinished: dict | None = None) -> None:
        """Save and wait; a failure is an error. unfinished: a row that lacks its evaluations."""
        if self._checkpoints is None:
            return
        with self._journal.clock("checkpoint"):
            self._save(number, state, row, unfinished)
            # The process may leave right after it, and the rest of the save with it.
            self._checkpoints.wait()

    def last(self) -> str:
        """Name the newest checkpoint."""
        steps = self._checkpoints.steps() if self._checkpoints else []
        return f"{self._checkpoints.directory}/{steps[-1]}" if steps else "none"

    def blame(self, batch: Any) -> Callable[[], str]:
        """Name a batch that is about to be trained on, should its loss not be finite.

        A function, asked on a bad loss alone: it reads the batch back from the devices.
        """
        position = self._ahead.position
        return lambda: f"{_identity(batch, position)}; last good checkpoint: {self.last()}"

    def _is_due(self, number: int, *, evaluated: bool) -> bool:
        if self._checkpoints is None:
            return False
        is_time = bool(self._every_steps and number % self._every_steps == 0)
        # A metric to choose by is of one step; saved at another one the choice would be of other
        # weights.
        return is_time or (evaluated and (self._checkpoints.best or "").startswith("eval/"))

    def _save(self, number: int, state: Any, row: dict, unfinished: dict | None) -> None:
        data = {"batches": self._ahead.position, "progress": self._journal.dump(unfinished)}
        self._checkpoints.save(number, state, data=data, metrics=row)


class _Calls:
    """Calls the step, and warns when it compiles again: all batches must have one shape."""

    def __init__(self, call: Callable, step: Callable, journal: Journal):
        # Only compiled functions count their programs; a plain one (in a test) has none to count.
        count = getattr(step, "compilations", None) or getattr(step, "_cache_size", lambda: 0)
        self._count: Callable[[], int] = count
        self._call, self._journal = call, journal
        self._seen: int | None = None

    def __call__(self, number: int, state: Any, batch: Any) -> tuple:
        # The first call traces and compiles before it returns: its time is the compile time.
        is_first = self._seen is None
        with contextlib.ExitStack() as around:
            if is_first:
                around.enter_context(self._journal.clock("compile"))
                around.enter_context(phases.named("compiling the step"))
            result = self._call(state, batch)
        count = self._count()
        # The first program is expected; what follows costs minutes on a large model, each time.
        if not is_first and count > self._seen:
            warnings.warn(
                f"loop: step {number} compiled the train step again (program {count}); expected "
                f"one program; look for a changed shape, dtype or sharding in {_shapes(batch)}",
                RuntimeWarning,
                stacklevel=2,
            )
        self._seen = count
        return result


def _identity(batch: Any, position: dict | None) -> str:
    """Name a batch: where it came from, and a hash of its tokens."""
    tokens = batch["tokens"] if isinstance(batch, dict) and "tokens" in batch else None
    flat = {name: x for name, x in (position or {}).items() if not isinstance(x, dict | list)}
    words = [f"at data position {json.dumps(flat)}"] if flat else []
    # Another process may hold a part of the batch: then the position alone must do.
    if isinstance(tokens, np.ndarray) or (tokens is not None and tokens.is_fully_addressable):
        digest = hashlib.sha256(np.asarray(tokens).tobytes()).hexdigest()[:12]
        # Twelve digits of a hash tell two batches apart in a message, and are short enough to
        # compare by eye.
        words.append(f"tokens {list(tokens.shape)} with sha256 {digest}")
    return "the batch is the one " + ", ".join(words or ["without a known position"])


def _shapes(batch: Any) -> dict[str, str]:
    return {path: f"{x.dtype}{list(x.shape)}" for path, x in tree.paths(batch).items()}
