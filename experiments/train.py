r"""Fine-tune a model as one config file says.

    python -m experiments.train --config configs/sft.py:path=my.jsonl --workdir runs/mine
    python -m experiments.train --config configs/sft.py --dry_run          # what it would do
    python -m experiments.train --config configs/sft.py --show_mask 50     # mask.html
    python -m experiments.train --config ... --config.optim.learning_rate=1e-4
    python -m experiments.train --config configs/members_tiny.py --workdir runs/members

A config with a function `members()` beside `get_config` is of many adapter runs, which one program
trains: it goes to `experiments.members`.

A workdir that holds a run resumes it, exactly. The run leaves there: config.json, metrics.jsonl,
TensorBoard events, checkpoints/, evals/ and samples/ (before and after), summary.json, report.html
and export/ (a PEFT adapter, or a Hugging Face model).
"""

import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from absl import app, flags

from experiments import cli
from ftjax.core import config_flag
from ftjax.run import config as settings_lib
from ftjax.run import keys, member_settings


class Flags(NamedTuple):
    """The flags of this command."""

    config: config_flag.Flag
    workdir: flags.FlagHolder
    dry_run: flags.FlagHolder
    show_mask: flags.FlagHolder
    allow_config_change: flags.FlagHolder
    restart_data: flags.FlagHolder
    profile: flags.FlagHolder


def define() -> Flags:
    """Define the flags; not at import, since other commands import `train`."""
    holder = config_flag.define()
    config_flag.define_required(holder)
    return Flags(
        holder,
        flags.DEFINE_string(
            "workdir", "", "directory of the run, or a URL; one that holds a run resumes"
        ),
        flags.DEFINE_bool("dry_run", False, "print config, sizes and the first example, and exit"),
        flags.DEFINE_integer(
            "show_mask", 0, "write a page of so many rows with what is learned coloured, and exit",
            lower_bound=0,
        ),
        *cli.define_training(),
    )  # fmt: skip


def main(argv: list[str], given: Flags) -> None:
    """Run what the flags say."""
    only_shows = check(argv, given)
    config = keys.read(given.config)
    if member_settings.find(given.config.config.value) is not None:
        from experiments import members  # which has the flags of this main

        members.main(argv, given)
        return
    settings = settings_lib.read(config)
    cli.start()
    if only_shows:
        show(settings, given)
        return
    from ftjax.run import workdirs  # slow to import, here and below
    from ftjax.train import tracing

    allow = dict(
        allow_config_change=given.allow_config_change.value, restart_data=given.restart_data.value,
        profile=tracing.read(given.profile.value),
    )  # fmt: skip
    with workdirs.opened(given.workdir.value) as workdir:
        train(settings, workdir, **allow)


def check(argv: list[str], given: Flags) -> bool:
    """Check how the command is called; returns whether it only shows what it would do."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    only_shows = bool(given.dry_run.value or given.show_mask.value)
    if not given.workdir.value and not only_shows:
        raise app.UsageError("--workdir: got none; expected a directory for the run")
    if only_shows and given.profile.value:
        raise app.UsageError("--profile: got it where nothing is trained; expected none; drop it")
    return only_shows


def show(settings: settings_lib.Settings, given: Flags) -> None:
    """Show what a run would do: its sizes and first example, or a page of what is learned."""
    from ftjax.run import dry_run, mask_page, plan, workdirs

    p = plan.plan(settings)
    if not given.show_mask.value:
        dry_run.show(p)
        return
    with workdirs.read(given.workdir.value or ".") as workdir:
        page = workdir / "mask.html"
        count = mask_page.write(p, count=given.show_mask.value, path=page)
        print(f"{page}: {count} examples")


def train(
    settings: settings_lib.Settings, workdir: pathlib.Path, *, allow_config_change: bool = False,
    restart_data: bool = False, profile: Sequence[int] = (), shared=None,
):  # fmt: skip
    """Train, or go on training, in `workdir`; returns a `finish.Outcome`.

    profile: steps to trace. shared: a `run.shared.Shared`, what other runs of the process built.

    Raises:
      ValueError: anything wrong with the settings, the data, or what the workdir holds.
    """
    from ftjax.run import costs, finish, inputs, pins, plan, reference, replay, saved_state, session

    start = time.perf_counter()
    with session.opened(workdir, settings) as artifacts:
        settings = pins.pin(settings, artifacts)
        settings = replay.fill(settings, artifacts, shared=shared)
        # Everything is checked, and the data encoded, before a device holds anything.
        p = plan.plan(settings, progress=finish.progress("encoding"), shared=shared)
        batches = inputs.Batches(p.loader, p.parts.mesh, anchors=p.anchor_loaders)
        step = plan.compiled_step(p)
        session.compile_ahead(p, artifacts, step, batches)
        # Parameters of the first step, of which only what trains is in the state.
        first, frozen = plan.weights(p, workdir)
        # A cached reference is the log-probabilities of the policy before its first step.
        reference.compute(
            p.parts, saved_state.params_of(first, frozen), p.loader.data.store, workdir=workdir,
            identity=lambda: saved_state.identity(p.parts), progress=finish.progress("reference"),
        )  # fmt: skip
        allow = dict(allow_config_change=allow_config_change, restart_data=restart_data)
        with session.records(p, workdir, profile=profile, **allow) as kept:
            if kept.checkpoints.steps():
                first = None  # two states at a time may be more than the memory
            state, progress = session.resume(p, kept, batches, restart_data=restart_data)
            state = plan.begin(p, first) if state is None else state
            options = dict(progress=progress, cost=costs.of(p), started=start)
            result = session.train(p, kept, step, state, frozen, batches, **options)
        params = saved_state.params_of(result.state, frozen)
        # Export, summary, report and the table of what was learned and forgotten.
        return finish.finish(p, result, params, workdir, seconds=time.perf_counter() - start)


if __name__ == "__main__":
    cli.run(main, define())
