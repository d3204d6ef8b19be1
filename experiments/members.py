r"""Train many adapter runs over one base as one program, as `members()` of a config lists them.

    python -m experiments.members --config configs/members_tiny.py --workdir runs/members
    python -m experiments.members --config configs/members_tiny.py --dry_run

DIR/<member>/ of each reads as the directory of a run; DIR/report.html and DIR/sweep.csv compare
them. Started again on the same directory, all go on from the newest step that each has, and end
with the same numbers. See docs/sweeps.md.
"""

import contextlib
import pathlib
import sys
import time
from collections.abc import Mapping

from experiments import cli, train
from ftjax.run import config as settings_lib
from ftjax.run import member_settings


def define() -> train.Flags:
    """Define the flags, which are those of `experiments.train`."""
    return train.define()


def main(argv: list[str], given: train.Flags) -> None:
    """Do what the flags say with all members of a config."""
    only_shows = train.check(argv, given)
    path = given.config.config.value
    if (listed := member_settings.find(path)) is None:
        raise ValueError(
            f"--config: got {path}, which has no function members(); expected one that lists them, "
            "as in configs/members_tiny.py; add it, or run experiments.train"
        )
    if given.restart_data.value:
        raise ValueError(
            "--restart_data: got it with members(), which go on with the data that they began "
            "with; expected none; drop it, or choose another --workdir"
        )
    if given.profile.value:
        raise ValueError(
            f"--profile: got {given.profile.value} with members(), whose steps are not traced; "
            "expected none; drop it, or trace one of them with experiments.train and its settings"
        )
    found = member_settings.read(path, given.config.keys.value, listed)
    cli.start()
    if only_shows:
        sys.stdout.write(f"{len(found)} members: {' '.join(found)}; shown is the first\n")
        train.show(next(iter(found.values())), given)
        return
    from ftjax.run import workdirs  # slow to import

    allow = given.allow_config_change.value
    with workdirs.opened(given.workdir.value) as workdir:
        run(found, listed, workdir, allow_config_change=allow)


def run(
    chosen: Mapping[str, settings_lib.Settings], listed: member_settings.Listed,
    root: pathlib.Path, *, allow_config_change: bool = False,
) -> None:  # fmt: skip
    """Train, or go on training, all members, each in `root`/<name>.

    Raises:
      ValueError: anything wrong with the settings, the data, or what the directories hold.
      RuntimeError: all members have diverged; their rows have the reason.
    """
    from ftjax.core import processes
    from ftjax.run import member_runs, session, unit  # slow to import
    from ftjax.run.artifacts import Artifacts

    own = Artifacts(root)
    # A job of a sweep records how it stands: here that is all of them together.
    is_job = processes.on_first(own.unit.exists)
    with session.owned(own) if is_job else contextlib.nullcontext():
        with member_runs.opened(root, chosen, listed) as desk:
            if desk.open:  # else they are shown once more
                _train(chosen, listed, root, desk, allow_config_change=allow_config_change)
        _report(chosen, root, best=(listed.stop or listed.halving or {}).get("metric", ""))
        if not desk.open:
            unit.finish(own)


def _train(
    chosen: Mapping[str, settings_lib.Settings], listed: member_settings.Listed,
    root: pathlib.Path, desk, *, allow_config_change: bool,
) -> None:  # fmt: skip
    from ftjax.run import costs, finish, member_arrays, member_parts, member_runs, pins
    from ftjax.train import member_loop
    from ftjax.train.halving import Seen

    start = time.perf_counter()
    chosen = {name: pins.pin(own, desk.artifacts[name]) for name, own in chosen.items()}
    # Everything is checked, and the data encoded once, before a device holds anything.
    found = member_parts.plan(chosen, progress=finish.progress("encoding"))
    whole = member_arrays.Arrays(found)
    stops, halving = member_parts.early_stops(listed, found), member_parts.halving(listed, found)
    seen = {name: Seen(halving.metric) for name in found} if halving else {}
    # What each starts from; the base is the same arrays in all of them.
    firsts, frozen = member_parts.weights(found, root)
    batches = member_parts.batches(found)
    kept = desk.record(found, allow_config_change=allow_config_change)
    resumed = member_runs.resume(kept, found, batches)
    watched = dict(stops=stops, seen=seen)
    state, progress = member_parts.begin(whole, found, firsts, resumed, opened=desk.open, **watched)
    del firsts
    numbers, both = whole.hyper(), whole.frozen(list(frozen.values()))
    step = member_runs.choose(root, listed, whole, (state, numbers, both, batches))
    # At once, when one ends before the others: its export and report, or why it diverged.
    ended = desk.ending(found, frozen, start=start)
    each = member_parts.members(whole, found, frozen, kept, progress=progress, **watched)
    first = next(iter(found.values()))
    results = member_loop.run(
        step, state, both, batches, each, hyper=numbers, until=first.length.steps, ended=ended,
        log_every_steps=first.settings.log_every_steps, flops_per_token=costs.of(first),
        save_every_steps=first.settings.checkpoint.every_steps or None, halving=halving,
        started=start,
    )  # fmt: skip
    for index, result in results.items():
        ended(index, result)


def _report(
    chosen: Mapping[str, settings_lib.Settings], root: pathlib.Path, *, best: str
) -> None:  # fmt: skip
    """Print and write the table of all members that have ended, the best first if one metric is."""
    from ftjax.core import files, processes
    from ftjax.launch.lib import jobs as jobs_lib
    from ftjax.launch.lib import results
    from ftjax.run import unit

    if not processes.is_first():
        return
    jobs = [jobs_lib.Job(name, name, (), root / name, files.plain(own.plain))
            for name, own in chosen.items()]  # fmt: skip
    states = [unit.read(job.artifacts).state for job in jobs]
    if not set(states) <= {"done", "diverged"}:
        return  # stopped by a signal; the next call goes on
    rows = results.rows(jobs)
    best = best if any(isinstance(row.get(best), float) for row in rows) else ""
    rows = results.ranked(rows, best) if best else rows
    sys.stdout.write(results.text(results.shown(rows, jobs)) + "\n")
    for path in results.write(jobs, root, best=best):
        sys.stdout.write(f"{path}\n")
    if "done" not in states:
        raise RuntimeError(f"members: all {len(jobs)} diverged; their rows have the reason")


if __name__ == "__main__":
    cli.run(main, define())
