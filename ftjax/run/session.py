"""The workdir of a run while it trains: one writer, its metrics, its checkpoints, its loop.

with opened(workdir, settings) as artifacts: ...
with records(p, workdir) as kept:
state, progress = resume(p, kept, first, batches)
result = train(p, kept, step, state, frozen, batches, progress=progress)
"""

import contextlib
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ftjax.core import compile_cache, files, garbage, phases
from ftjax.optim import rates
from ftjax.report import summary, tracking, writers
from ftjax.run import damage, hyper, lock, penalty, saved_state, unit
from ftjax.run import plan as plans
from ftjax.run.artifacts import Artifacts
from ftjax.run.config import Settings
from ftjax.train import early_stop, flops, loop, stop, tracing, visits
from ftjax.train.checkpoint import Checkpoints


class Records(NamedTuple):
    """What a run writes while it trains."""

    artifacts: Artifacts
    writers: tuple
    checkpoints: Checkpoints
    profile: Sequence[int] = ()  # steps that are traced


@contextlib.contextmanager
def opened(workdir: pathlib.Path, settings: Settings) -> Iterator[Artifacts]:
    """Be the only run in a workdir: damaged files are set aside, SIGTERM leaves in order.

    Programs are kept where the settings say.

    Raises:
      ValueError: it cannot be written, is not of a run, or another run writes to it.
    """
    artifacts = Artifacts(workdir)
    compile_cache.use(settings.compile_cache)
    with owned(artifacts), stop.leaving(artifacts.has_checkpoint), garbage.put_off():
        damage.set_aside(artifacts)
        yield artifacts


@contextlib.contextmanager
def owned(artifacts: Artifacts) -> Iterator[None]:
    """Be the only run in a workdir, and record there how it ends where a launcher has asked."""
    # In this order: who has the lock records, and a SIGTERM unwinds through the record.
    with lock.writer(artifacts), unit.Recorded(artifacts):
        yield


def compile_ahead(p: plans.Plan, artifacts: Artifacts, step, batches) -> None:
    """Compile the step of a new run beside weights, evaluations and what else comes before it.

    One that goes on may be over already, or be refused.
    """
    if not artifacts.has_checkpoint():
        step.begin(p.state, hyper.place(p), p.frozen, batches.abstract())


@contextlib.contextmanager
def records(
    p: plans.Plan, workdir: pathlib.Path, *, allow_config_change: bool = False,
    restart_data: bool = False, profile: Sequence[int] = (), console: Any = None,
) -> Iterator[Records]:  # fmt: skip
    """Open the writers and the checkpoints of a run.

    profile: steps to trace. console: a writer in place of the usual.
    """
    tracing.check(profile, p.length.total)
    with contextlib.ExitStack() as stack:
        found = writers_of(
            p.settings, workdir, until=p.length.steps, stated=p.evaluation.stated, console=console
        )  # fmt: skip
        # Before checkpoints, so closed after them: what the last save logs is still written.
        for writer in found:
            stack.callback(writer.close)
        options = dict(
            allow_config_change=allow_config_change, restart_data=restart_data,
            penalties=penalty.identity(p.penalties, p.settings),
        )  # fmt: skip
        checkpoints = stack.enter_context(saved_state.open_checkpoints(p.parts, workdir, **options))
        yield Records(Artifacts(workdir), found, checkpoints, profile)


def resume(
    p: plans.Plan, kept: Records, batches, *, restart_data: bool = False
) -> tuple[Any, dict | None]:
    """Restore the newest good checkpoint; (None, None) where there is none.

    The state goes straight into the plan's shardings: nothing is made beside it.
    """
    state, progress = loop.resume(
        kept.checkpoints, p.state, batches, writers=kept.writers, restart_data=restart_data
    )
    if progress is not None and jax.process_index() == 0:
        # Before the first line of metrics: whoever restarts a run looks for where it goes on.
        sys.stderr.write(f"resumed at step {int(state.step)} of {p.length.steps}\n")
    if restart_data and progress and jax.process_index() == 0:
        _record_restart(kept.artifacts, int(state.step), batches)
    return (None, None) if progress is None else (state, progress)


def _record_restart(own: Artifacts, step: int, batches) -> None:
    """Keep after which step the data started afresh, and what they are since."""
    known = files.read_json(own.restarts)["restarts"] if own.restarts.exists() else []
    files.write_json(own.restarts, {"restarts": [*known, {"step": step, "data": batches.state()}]})


def train(
    p: plans.Plan, kept: Records, step, state, frozen, batches, *, progress: dict | None,
    cost: flops.Cost, started: float | None = None,
) -> loop.Result:  # fmt: skip
    """Run the loop to the plan's last step; cost: FLOPs of a token; started: see `loop.run`."""
    if jax.process_index() == 0:  # a config that is refused must not replace the run's own
        summary.write_config(kept.artifacts.config, p.settings.plain)
        sys.stderr.write(f"data: {p.length.text(p.loader.summary())}\n{_rate_note(p)}")
    with tracing.opened(kept.profile, kept.artifacts.profile) as trace:
        result = loop.run(
            step, state, frozen, batches, hyper=hyper.place(p), until=p.length.steps,
            log_every_steps=p.settings.log_every_steps,
            every=(evaluations(p, kept.artifacts.workdir),), writers=kept.writers,
            checkpoints=kept.checkpoints, progress=progress, flops_per_token=cost,
            save_every_steps=p.settings.checkpoint.every_steps or None, trace=trace,
            started=started,
        )  # fmt: skip
    # Not of a run that was stopped: the one after would build on half of it.
    if early_stop.has_ended(result.stopped):
        penalty.leave(p.penalties, p.parts, result.state, frozen, kept.artifacts.workdir)
    return result


def _rate_note(p: plans.Plan) -> str:
    """Return a line on a learning rate that is far too large for the base, "" where it is not."""
    # Losses of pairs want far lower rates; see `optim/rates.py`.
    preference = p.parts.spec.batch.judged
    note = rates.note(
        p.settings.optim["learning_rate"], p.parts.parameters, full=p.parts.method is None,
        preference=preference,
    )  # fmt: skip
    return f"{note}\n" if note else ""


def evaluations(p: plans.Plan, workdir: pathlib.Path) -> visits.Hook:
    """Make the hook that evaluates a run, and keeps the scores in its directory."""

    def evaluate(now: visits.StepInfo) -> dict:
        params = saved_state.params_of(now.state, now.frozen)
        is_empty = not p.evaluation.evaluators and p.evaluation.sample is None
        with contextlib.nullcontext() if is_empty else phases.named("evaluating"):
            own = dict(step=now.step, workdir=workdir, seed=p.settings.seed.sampling)
            # What it begins with, other runs may have begun with too.
            return p.evaluation.run(params, shared=None if now.step else p.shared, **own)

    # At the start too: what a run teaches and costs is a difference to what it began with.
    return visits.Hook(p.settings.eval_every_steps or p.length.steps, evaluate, at_start=True)


def writers_of(
    settings: Settings, workdir: pathlib.Path, *, until: int, stated: Mapping | None = None,
    console: Any = None,
) -> tuple:  # fmt: skip
    """Make the writers of a run's metrics.

    stated: see `writers.Console`. console: one in place of that of a single run.
    """
    own = Artifacts(workdir)
    found = [
        writers.Jsonl(own.metrics),
        writers.TensorBoard(own.tensorboard, samples=own.samples, config=settings.plain),
        console or writers.Console(until=until, stated=stated),
        unit.Progress(own),
    ]
    if settings.tracker.get("name"):
        # `.` and a relative path have no name that a service could show.
        place = workdir.resolve()
        run = tracking.Run(place.name, place.parent.name, settings.plain)
        found.append(tracking.build(settings.tracker, run=run, path=own.tracker))
    return tuple(found)
