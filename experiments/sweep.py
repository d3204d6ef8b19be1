r"""Launch the variants of one config as jobs, here or on a cluster, and collect what they did.

    python -m experiments.sweep plan --config configs/quickstart.py --workdir runs/quick
    python -m experiments.sweep launch --config configs/quickstart.py --workdir runs/quick \
        --option workers=2
    python -m experiments.sweep launch --config configs/quickstart.py --workdir runs/quick \
        --engine slurm --option time=4:00:00 --option gpus=1 --dry_run
    python -m experiments.sweep status  --workdir runs/quick
    python -m experiments.sweep resume  --workdir runs/quick --engine slurm --option time=4:00:00
    python -m experiments.sweep collect --workdir runs/quick --best eval/english/nll

The config file has, besides `get_config(arg)`, a function `sweep()`: {label: arg} as for
`experiments.compare`, {label: dict of dotted overrides}, a list of such dicts, as `grid` and
`sample` of `ftjax.launch.lib.space` make them, or `Searched(...)`. Every job is a run in DIR/<id>,
the id being a hash of its resolved config, so a launch may be repeated, also with a longer list:
what is done is not done again, what was stopped or killed goes on, what failed or diverged is a row
with the reason (`--again failed,diverged` runs it once more). How jobs stand is read from their
workdirs alone. `collect` writes DIR/sweep.csv and DIR/report.html. Exit code 2: a job failed or
diverged.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from absl import app, flags

from experiments import cli
from ftjax.core import config as conf
from ftjax.core import remote
from ftjax.launch.lib import jobs as jobs_lib
from ftjax.launch.lib import options as options_lib
from ftjax.launch.lib import results
from ftjax.run import unit

COMMANDS = ("plan", "launch", "status", "resume", "collect")


class Flags(NamedTuple):
    """The flags of this command."""

    config: flags.FlagHolder
    workdir: flags.FlagHolder
    engine: flags.FlagHolder
    option: flags.FlagHolder
    again: flags.FlagHolder
    best: flags.FlagHolder
    dry_run: flags.FlagHolder


def define() -> Flags:
    """Define the flags; not at import, since one process may import several commands."""
    return Flags(
        flags.DEFINE_string("config", None, "of plan and launch: file.py:arg with sweep()"),
        flags.DEFINE_string("workdir", None, "directory of the sweep", required=True),
        flags.DEFINE_string("engine", "local", "local, slurm, jobset or tpu_vm"),
        flags.DEFINE_multi_string("option", [], "key=value of the engine, see ftjax/launch"),
        flags.DEFINE_list("again", [], "states to launch besides: failed, diverged, submitted"),
        flags.DEFINE_string("best", "", "of collect: the metric to sort jobs by"),
        flags.DEFINE_bool("dry_run", False, "print exactly what would be submitted, and exit"),
    )


def main(argv: list[str], given: Flags) -> None:
    """Run what the flags say."""
    # No device is touched here, and no process joined: the jobs do that themselves.
    if len(argv) != 2 or argv[1] not in COMMANDS:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected one of {', '.join(COMMANDS)}")
    remote.check_local(given.workdir.value, where="--workdir")  # the jobs' own are in it
    command, root = argv[1], pathlib.Path(given.workdir.value)
    if command in ("plan", "launch"):
        if not given.config.value:
            raise app.UsageError(f"--config: got none; expected a file with sweep() to {command}")
        jobs = read(given.config.value, root)
    else:
        jobs = jobs_lib.kept(root)
    if command == "launch" and jobs_lib.learns(given.config.value):
        rounds(jobs, root, given)
    elif command in ("launch", "resume"):
        launch(jobs, root, given)
    elif command == "collect":
        paths = results.write(jobs, root, best=given.best.value)
        sys.stdout.write("".join(f"{path}\n" for path in paths))
    else:
        show(jobs)


def read(config: str, workdir: str | pathlib.Path) -> list[jobs_lib.Job]:
    """List the jobs of `file.py:arg`, which nobody has launched yet.

    Raises:
      ValueError: see `jobs.plan`.
    """
    return jobs_lib.plan(config, pathlib.Path(workdir))


def show(jobs: Sequence[jobs_lib.Job]) -> None:
    """Print a line of each job, or of each of its members, and how many are in which state."""
    jobs = jobs_lib.with_members(jobs)
    found = [unit.read(job.artifacts) for job in jobs]
    for job, now in zip(jobs, found, strict=True):
        spent = f"  {now.spent:.0f} s" if now.spent else ""
        reason = f"  {now.reason}" if now.reason else ""
        sys.stdout.write(
            f"{job.id}  {now.state:9}  attempt {now.attempt}  step {now.step}{spent}  {job.label}"
            f"{reason}\n"
        )
    states = [now.state for now in found]
    counts = (f"{states.count(state)} {state}" for state in unit.STATES if state in states)
    sys.stdout.write(f"{len(jobs)} jobs: {', '.join(counts)}\n")


def launch(jobs: Sequence[jobs_lib.Job], root: pathlib.Path, given: Flags) -> None:
    """Submit what is to be done; everything that can be wrong is found before.

    Raises:
      ValueError: an option is not legal, or the engine's tool is not here.
      RuntimeError: a job that this launcher ran did not end well.
    """
    submit(jobs, root, given)
    if not given.dry_run.value:
        conclude(jobs)


def rounds(jobs: Sequence[jobs_lib.Job], root: pathlib.Path, given: Flags) -> None:
    """Do the same for a search that learns, with what it proposes when its jobs have ended.

    Where this process waits for jobs it goes on by itself; else the next call does.
    """
    before: Sequence[jobs_lib.Job] = ()
    while len(jobs) > len(before):
        submit(jobs, root, given)
        if given.dry_run.value:
            return
        if any(unit.read(job.artifacts).state not in unit.ENDED for job in jobs):
            break
        before, jobs = jobs, read(given.config.value, root)
    conclude(jobs)


def conclude(jobs: Sequence[jobs_lib.Job]) -> None:
    """Show how jobs stand; RuntimeError where one did not end well."""
    show(jobs)
    states = [unit.read(job.artifacts).state for job in jobs]
    if bad := sum(state in ("failed", "diverged") for state in states):
        raise RuntimeError(
            f"sweep: {bad} of {len(jobs)} jobs failed or diverged; their rows have the reason"
        )


def submit(jobs: Sequence[jobs_lib.Job], root: pathlib.Path, given: Flags) -> None:
    """Submit those of the jobs that are due."""
    engine = options_lib.engine(given.engine.value, given.option.value)
    chosen = [job for job in jobs if _is_due(job, given.again.value, engine=given.engine.value)]
    submission = engine.submission(chosen, root) if chosen else None
    if given.dry_run.value or not chosen:
        sys.stdout.write(submission.text() if submission else "nothing to launch\n")
    if given.dry_run.value:
        return
    if chosen:
        engine.check()
        jobs_lib.keep(jobs, root)
        for job in chosen:
            unit.submit(job.artifacts)
        engine.submit(submission, chosen)


def _is_due(job: jobs_lib.Job, again: Sequence[str], *, engine: str) -> bool:
    """Return whether a job is to be launched.

    What another launcher has submitted waits in the queue of a cluster; this machine has none.
    """
    for state in again:
        if state not in (legal := ("failed", "diverged", "submitted")):
            raise ValueError(f"--again: got {state!r}; expected of {conf.listed(legal)}")
    state = unit.read(job.artifacts).state
    return state in unit.OPEN or state in again or (engine == "local" and state == "submitted")


if __name__ == "__main__":
    cli.run(main, define())
