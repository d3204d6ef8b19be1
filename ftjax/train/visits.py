"""What a run does at some of its steps: evaluate, save, and name the batch that spoiled it."""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ftjax.report.writers import Writer
from ftjax.train.ahead import Ahead
from ftjax.train.checkpoint import CheckpointError
from ftjax.train.journal import Journal

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


def rewind(writers: Sequence[Writer], step: int, *, rows: int) -> None:
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


class Evaluations:
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


class Keeper:
    """Saves state, data position and progress together."""

    def __init__(
        self, checkpoints, ahead: Ahead, every_steps: int | None, journal: Journal, *,
        more: Callable[[], dict] = dict,
    ):  # fmt: skip
        """Save to `checkpoints` each `every_steps`, and what `more` returns besides, for JSON."""
        if checkpoints is not None:
            ahead.check_positioned()  # at the start and not at the first save, hours later
        self._checkpoints, self._ahead, self._journal = checkpoints, ahead, journal
        self._every_steps, self._more = every_steps, more

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
                # A full disk must not end a run of days: it is said, and the next save is tried.
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

    def blame(self, batch: Any, *, of: Callable = lambda batch: batch) -> Callable[[], str]:
        """Name a batch that is about to be trained on, should its loss not be finite.

        of: takes this run's batch out of one of several.

        A function, asked on a bad loss alone: it reads the batch back from the devices.
        """
        position = self._ahead.position
        return lambda: f"{identity(of(batch), position)}; last good checkpoint: {self.last()}"

    def _is_due(self, number: int, *, evaluated: bool) -> bool:
        if self._checkpoints is None:
            return False
        is_time = bool(self._every_steps and number % self._every_steps == 0)
        # A metric to choose by is of one step; saved at another one the choice would be of other
        # weights.
        return is_time or (evaluated and (self._checkpoints.best or "").startswith("eval/"))

    def _save(self, number: int, state: Any, row: dict, unfinished: dict | None) -> None:
        data = {"batches": self._ahead.position, "progress": self._journal.dump(unfinished)}
        data |= self._more()
        self._checkpoints.save(number, state, data=data, metrics=row)


def identity(batch: Any, position: dict | None) -> str:
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
