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

from ftjax.core import tree
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
    step: Callable,
    state: Any,
    frozen: Tree,
    batches: Iterator,
    *,
    hyper: Tree = None,
    until: int,
    log_every_steps: int = 10,
    every: Sequence[Hook] = (),
    writers: Sequence[Writer] = (),
    checkpoints: Checkpoints | None = None,
    save_every_steps: int | None = None,
    progress: dict | None = None,
    flops_per_token: flops.Cost | None = None,
    count_tokens: Callable[[Any], int] = lambda batch: batch["tokens"].size,  # and padding
) -> Result:
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
        writers=writers if jax.process_index() == 0 else (),
        log_every_steps=log_every_steps,
        progress=progress,
        flops_per_token=flops_per_token,
    )
    keeper = _Keeper(checkpoints, batches, journal, save_every_steps)
    return _Run(step, hyper, frozen, batches, until, every, journal, keeper, count_tokens).go(state)


class _Keeper:
    """Saves state, data position and progress together."""

    def __init__(self, checkpoints, batches, journal: Journal, every_steps: int | None):
        # Refused at the start and not at the first save, hours later.
        if checkpoints is not None and not isinstance(batches, Positioned):
            raise ValueError(
                f"loop.batches: got {type(batches).__name__} without state() and restore(); "
                "expected a loader that can be resumed, since checkpoints are on"
            )
        self._checkpoints, self._batches, self._journal = checkpoints, batches, journal
        self._every_steps, self._position = every_steps, None

    def mark(self) -> dict | None:
        """Note the position after the batches trained on, before one more is fetched."""
        known = isinstance(self._batches, Positioned)
        # Taken before the next batch is fetched: that one is trained on after the save.
        self._position = self._batches.state() if known else None
        return self._position

    def due(self, number: int, *, evaluated: bool) -> bool:
        """Return whether to save: where it is time, and where the metric to choose by is known."""
        if self._checkpoints is None:
            return False
        is_time = bool(self._every_steps and number % self._every_steps == 0)
        # A metric to choose by is of one step; saved at another one the choice would be of other
        # weights.
        return is_time or (evaluated and (self._checkpoints.best or "").startswith("eval/"))

    def last(self) -> str:
        steps = self._checkpoints.steps() if self._checkpoints else []
        return f"{self._checkpoints.directory}/{steps[-1]}" if steps else "none"

    def try_save(self, number: int, state: Any, row: dict) -> None:
        """Save in the background; a failure is a warning, for the run is worth more."""
        # Two attempts apart: the failure of the save before must not keep this one from being
        # tried.
        for attempt in (self._checkpoints.wait, lambda: self._save(number, state, row, None)):
            try:
                with self._journal.clock("checkpoint"):
                    attempt()
            except CheckpointError as error:
                warnings.warn(f"{error}; training goes on", RuntimeWarning, stacklevel=2)

    def must_save(self, number: int, state: Any, row: dict, unfinished: dict | None) -> None:
        """Save and wait; a failure is an error."""
        if self._checkpoints is None:
            return
        with self._journal.clock("checkpoint"):
            self._save(number, state, row, unfinished)
            # The process may leave right after it, and the rest of the save with it.
            self._checkpoints.wait()

    def _save(self, number: int, state: Any, row: dict, unfinished: dict | None) -> None:
        data = {"batches": self._position, "progress": self._journal.dump(unfinished)}
        self._checkpoints.save(number, state, data=data, metrics=row)


class _CompileGuard:
    """Warns when the step compiles again: every batch must have the shapes of the first."""

    def __init__(self, step: Callable):
        # Only compiled functions count their programs; a plain one (in a test) has none to count.
        count = getattr(step, "compilations", None) or getattr(step, "_cache_size", lambda: 0)
        self._count: Callable[[], int] = count
        self._seen: int | None = None

    def check(self, number: int, batch: Any) -> None:
        count = self._count()
        # The first program is expected; what follows costs minutes on a large model, each time.
        if self._seen is not None and count > self._seen:
            warnings.warn(
                f"loop: step {number} compiled the train step again (program {count}); expected "
                f"one program; look for a changed shape, dtype or sharding in {_shapes(batch)}",
                RuntimeWarning,
                stacklevel=2,
            )
        self._seen = count


class _Run:
    """One call of `run`."""

    def __init__(self, step, hyper, frozen, batches, until, every, journal, keeper, count_tokens):
        self._step, self._hyper, self._frozen = step, hyper, frozen
        self._batches, self._until = batches, until
        self._every, self._journal, self._keeper = every, journal, keeper
        self._count_tokens, self._guard = count_tokens, _CompileGuard(step)

    def go(self, state: Any) -> Result:
        # The one read of an array before the loop: the device is idle here anyway.
        first = number = int(state.step)
        self._begin(number, state)
        stopped = None
        with Stop() as stop:
            fetched = self._fetch(number)
            while fetched is not None:
                number += 1
                state = self._advance(number, state, fetched, is_first=number == first + 1)
                fetched = self._fetch(number)
                # After the fetch, so that all processes have asked for the same batches when they
                # agree to stop.
                if stop.reached(number):
                    stopped = stop.reason
                    break
                if fetched is not None:
                    self._visit(number, state)
        # A run that was complete when it began is not evaluated and saved again.
        if number > first:
            self._end(number, state, stopped)
        if stopped is None and number < self._until:
            stopped = "data ended"
            sys.stderr.write(f"data ended: after step {number} of {self._until}\n")
        stopped = stopped or "done"
        journal = self._journal
        vanished = journal.gradient.warn(number)
        counts = dict(tokens=journal.tokens, padding=journal.padding, rows=journal.rows)
        return Result(
            state,
            number,
            stopped,
            journal.row,
            seconds=journal.seconds,
            vanished=vanished,
            **counts,
        )

    def _fetch(self, number: int) -> tuple[Any, dict | None] | None:
        """Return the batch after step `number` and its position; None when there is no more."""
        position = self._keeper.mark()
        if number >= self._until:
            return None
        with self._journal.clock("data"):
            batch = next(self._batches, None)
        return None if batch is None else (batch, position)

    def _advance(self, number: int, state: Any, fetched: tuple, *, is_first: bool) -> Any:
        batch, position = fetched
        # The first call traces and compiles before it returns, so its time is the compile time.
        with self._journal.clock("compile") if is_first else contextlib.nullcontext():
            state, metrics = self._step(state, self._hyper, self._frozen, batch)
        self._guard.check(number, batch)
        # A function, asked on a bad loss alone: it reads the batch back from the devices.
        blame = lambda: f"{_identity(batch, position)}; last good checkpoint: {self._keeper.last()}"
        self._journal.push(number, metrics, tokens=self._count_tokens(batch), blame=blame)
        return state

    def _begin(self, number: int, state: Any) -> None:
        """Evaluate before the first step, or where a stopped run had no time left to."""
        row = self._journal.unfinished
        if row is not None:
            self._journal.write(number, row | self._call(self._due(number), number, state))
        elif number == 0:
            # A resumed run was evaluated by the process that began it.
            hooks = [hook for hook in self._every if hook.at_start]
            self._journal.write(number, self._call(hooks, number, state))

    def _visit(self, number: int, state: Any) -> None:
        """Evaluate and save where it is time; the last step belongs to `_end`."""
        hooks = self._due(number)
        save = self._keeper.due(number, evaluated=bool(hooks))
        if not (hooks or save):
            return
        row = self._journal.catch_up() | self._call(hooks, number, state)
        self._journal.write(number, row)
        if save:
            self._keeper.try_save(number, state, row)

    def _end(self, number: int, state: Any, stopped: str | None) -> None:
        if stopped is None:
            row = self._journal.catch_up(log=True) | self._call(self._every, number, state)
            self._journal.write(number, row)
            self._keeper.must_save(number, state, row, None)
            return
        row = self._journal.catch_up(log=number >= self._until)
        hooks = self._due(number)
        if not hooks:
            self._journal.write(number, row)
        # A scheduler grants seconds: what is due now is evaluated by the process that goes on.
        self._keeper.must_save(number, state, row, row if hooks else None)
        sys.stderr.write(f"{stopped}: stopped after step {number}; saved {self._keeper.last()}\n")

    def _due(self, number: int) -> list[Hook]:
        is_last = number >= self._until
        return [hook for hook in self._every if is_last or number % hook.steps == 0]

    def _call(self, hooks: Sequence[Hook], number: int, state: Any) -> dict:
        row: dict = {}
        with self._journal.clock("eval"):
            for hook in hooks:
                row |= hook.call(StepInfo(number, state, self._frozen)) or {}
        return row


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
