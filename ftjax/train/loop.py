"""The training loop: a plain function over a jitted step and an iterator of batches.

    state, progress = resume(checkpoints, state, batches, writers=writers)
    result = run(step, state, frozen, batches, until=1000, every=[Hook(100, evaluate)],
                 writers=writers, checkpoints=checkpoints, save_every_steps=200, progress=progress)

Metrics are read one step late: while the host waits for step k-1, the devices already work on step
k. Only where something looks at the state (an evaluation, a checkpoint, the end) does the loop
catch up, so no checkpoint is ever written of a loss that was not seen to be finite.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from ftjax.report.writers import Writer
from ftjax.train import flops
from ftjax.train.ahead import Ahead, Calls, Positioned
from ftjax.train.checkpoint import Checkpoints
from ftjax.train.journal import Journal
from ftjax.train.stop import Stop
from ftjax.train.tracing import Trace
from ftjax.train.visits import Evaluations, Hook, Keeper, rewind

Tree = Any


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
        rewind(writers, -1, rows=0)
        return state, None
    progress = restored.data["progress"]
    # A row that still waits for its evaluations is written again, whole.
    rewind(writers, restored.step - (progress["row"] is not None), rows=progress["rows"])
    if restart_data:
        sys.stderr.write(f"--restart_data: the data start afresh after step {restored.step}\n")
    else:
        batches.restore(restored.data["batches"])
    return restored.state, progress


def run(
    step: Callable, state: Any, frozen: Tree, batches: Iterator, *, hyper: Tree = None, until: int,
    log_every_steps: int = 10, every: Sequence[Hook] = (), writers: Sequence[Writer] = (),
    checkpoints: Checkpoints | None = None, save_every_steps: int | None = None,
    progress: dict | None = None, flops_per_token: flops.Cost | None = None,
    count_tokens: Callable[[Any], int] = lambda batch: batch["tokens"].size,  # and padding
    trace: Trace | None = None, started: float | None = None,
) -> Result:  # fmt: skip
    """Train from `state.step` until step `until`, and return how it ended.

    step: (state, hyper, frozen, batch) -> (state, metrics of `Mean`s and scalars with "loss"),
      jitted. hyper: numbers of the run that are no part of the program.
    checkpoints: saved each `save_every_steps`, at the end, and when asked to stop by SIGTERM or
      control-C; then `run` returns, and the process should leave with exit code 0.
    progress: from `resume`. flops_per_token: for MFU. trace: what calls the step. started: when
    this process began with the run, by `time.perf_counter`. Raises
    FloatingPointError on a loss that is not finite, CheckpointError when the last checkpoint cannot
    be written.
    """
    journal = Journal(
        # Metrics are reduced over the processes: one log holds them all.
        writers=writers if jax.process_index() == 0 else (), log_every_steps=log_every_steps,
        progress=progress, flops_per_token=flops_per_token, started=started,
    )  # fmt: skip
    # The one read of an array before the loop: the device is idle here anyway.
    first = int(state.step)
    ahead = Ahead(batches, until - first, journal, count_tokens)
    call = Calls(lambda state, batch: step(state, hyper, frozen, batch), step, journal, trace)
    evaluations = Evaluations(every, until, frozen, journal)
    keeper = Keeper(checkpoints, ahead, save_every_steps, journal)
    state, number, stopped = _train(state, first, call, ahead, journal, evaluations, keeper)
    return _result(state, number, stopped, until, journal)


def _train(
    state: Any, first: int, call: Calls, ahead: Ahead, journal: Journal,
    evaluations: Evaluations, keeper: Keeper,
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
        state, number, stopped or "done", journal.row, journal.tokens, journal.spent(),
        padding=journal.padding, vanished=journal.gradient.warn(number), rows=journal.rows,
    )  # fmt: skip
