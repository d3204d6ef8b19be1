"""The directories of members: each is that of a run, and all of them go on from one step.

    with opened(root, settings) as desk:              one writer for each; those that ended stay
        kept = desk.record(plans)                     metrics and checkpoints of each
        step, restored = resume(kept, plans, batches)
        desk.finish(name, ...); desk.fail(name, error)

A member that has ended says so in its `unit.json`, and is not opened again. Members save one after
another, so a kill may leave some a save ahead: what is newer than the newest step of all is
removed, and made again, the same.
"""

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftjax.core import compile_cache, files, processes
from ftjax.report import summary
from ftjax.run import damage, finish, penalty, saved_state, session, unit
from ftjax.run import plan as plans
from ftjax.run.artifacts import Artifacts
from ftjax.run.config import Settings
from ftjax.run.member_settings import Listed
from ftjax.train import early_stop, loop, stop
from ftjax.train import members as members_lib
from ftjax.train.checkpoint import Restored
from ftjax.train.visits import rewind

ENDED = ("done", "diverged")  # states of a member that is not trained any more


class Desk:
    """What is open of the members' directories, by their names."""

    def __init__(self, root: pathlib.Path, names: Sequence[str]):
        """Look at the members under `root`; opens nothing."""
        self.artifacts = {name: Artifacts(root / name) for name in names}
        states = {name: unit.read(own).state for name, own in self.artifacts.items()}
        self.ended = {name: state in ENDED for name, state in states.items()}
        self._runs = {name: contextlib.ExitStack() for name in names if not self.ended[name]}
        # Apart from the above: a log must be closed before the lock on it is given back.
        self._records = {name: contextlib.ExitStack() for name in self._runs}

    @property
    def open(self) -> list[str]:
        """The names of those that still train."""
        return [name for name, ended in self.ended.items() if not ended]

    @contextlib.contextmanager
    def opened(self) -> Iterator["Desk"]:
        """Be the only run in all of these directories."""
        with contextlib.ExitStack() as every:
            for name, stack in self._runs.items():
                every.push(stack)
                own = self.artifacts[name]
                # Before the lock: the file is what makes the run record how it stands.
                processes.on_first(lambda own=own: unit.submit(own))
                stack.enter_context(session.owned(own))
                every.push(self._records[name])
            # A signal before all have saved ends like an error: nothing could go on from there.
            saved = lambda: all(self.artifacts[name].has_checkpoint() for name in self.open)
            every.enter_context(stop.leaving(saved))
            for name in self.open:
                damage.set_aside(self.artifacts[name])
            yield self

    def record(self, found: Mapping[str, plans.Plan], **options) -> dict[str, session.Records]:
        """Open metrics and checkpoints of those that train; the options are `session.records`'."""
        console, kept = Console(until=found[self.open[0]].length.steps), {}
        for name in self.open:
            own = self.artifacts[name]
            opened = session.records(found[name], own.workdir, console=console, **options)
            kept[name] = self._records[name].enter_context(opened)
            if processes.is_first():
                summary.write_config(own.config, found[name].settings.plain)
        return kept

    def ending(self, found: Mapping[str, plans.Plan], frozen: Mapping[str, Any], *, start: float):
        """Return what to call with the index of a member that ends, and how it did.

        start: of the run, by `time.perf_counter`.
        """
        names = list(found)

        def ended(index: int, how: loop.Result | FloatingPointError) -> None:
            name = names[index]
            if isinstance(how, FloatingPointError):
                self.fail(name, how)
                return
            seconds = time.perf_counter() - start
            self.finish(name, found[name], how, frozen[name], seconds=seconds)

        return ended

    def finish(self, name: str, p: plans.Plan, result: loop.Result, frozen, *, seconds: float):
        """Close a member that has ended; export it and write its reports."""
        # The page and the export are made of files that this completes.
        self._records[name].close()
        params = saved_state.params_of(result.state, frozen)
        workdir = self.artifacts[name].workdir
        if early_stop.has_ended(result.stopped):
            penalty.leave(p.penalties, p.parts, result.state, frozen, workdir)
        outcome = finish.finish(p, result, params, workdir, seconds=seconds, quiet=True)
        self._runs[name].close()
        self.ended[name] = outcome.has_ended
        return outcome

    def fail(self, name: str, error: FloatingPointError) -> None:
        """Close a member whose loss is not finite, with the error as its reason."""
        sys.stderr.write(f"{name} ended: {error}\n")
        self._records[name].close()
        # As an exception leaves the context of a run alone: its unit.json says diverged, and why.
        self._runs[name].__exit__(type(error), error, error.__traceback__)
        self.ended[name] = True


class Console:
    """One line a step for all members: the writer in the place of each one's own."""

    def __init__(self, *, until: int):
        """Write lines of runs that end at step `until`."""
        self._until, self._step, self._rows = until, 0, []

    def write(self, step: int, row: dict) -> None:
        """Take the row of a member; the first of another step prints those before."""
        if step != self._step:
            self._print()
        self._step = step
        self._rows.append(row)

    def rewind(self, step: int) -> None:
        """Do nothing: what was printed is printed."""

    def close(self) -> None:
        """Print what is left."""
        self._print()

    def _print(self) -> None:
        losses = [row["loss"] for row in self._rows if "loss" in row]
        if losses:
            span = f"{min(losses):.4g} to {max(losses):.4g} of {len(losses)} members"
            sys.stderr.write(f"step {self._step}/{self._until}  loss {span}\n")
            sys.stderr.flush()
        self._rows = []


@contextlib.contextmanager
def opened(root: pathlib.Path, chosen: Mapping[str, Settings], listed: Listed) -> Iterator[Desk]:
    """Open the directories of members under `root`.

    Raises:
      ValueError: one cannot be written, another run writes to it, or `root` has other members.
    """
    if Artifacts(root).config.exists():
        raise ValueError(
            f"--workdir: got {root}, which holds a run; expected a directory for members, one in "
            "each folder of it; choose another"
        )
    known = read(root)
    if known and list(known["members"]) != list(chosen):
        raise ValueError(
            f"--workdir: got {root}, which has the members {', '.join(known['members'])}; expected "
            f"those of the config, {', '.join(chosen)}; choose another directory"
        )
    if known and listed.how not in ("auto", known["how"] or "auto"):
        raise ValueError(
            f"members(): how: got {listed.how!r} in {root}, which began with {known['how']!r}; "
            "expected the same, since the two round differently; choose another directory"
        )
    compile_cache.use(next(iter(chosen.values())).compile_cache)
    with Desk(root, list(chosen)).opened() as desk:
        # Before anything is trained: a second call must find the same list.
        if not known:
            write(root, chosen, how="")
        yield desk


def read(root: pathlib.Path) -> dict:
    """Read what a directory of members says of all of them; nothing where there is none."""
    path = Artifacts(root).members
    return files.read_json(path) if path.exists() else {}


def write(root: pathlib.Path, names: Sequence[str] | Mapping, *, how: str) -> None:
    """Keep the names of the members, and how they are trained."""
    if processes.is_first():
        files.write_json(Artifacts(root).members, {"how": how, "members": list(names)})


def choose(root: pathlib.Path, listed: Listed, whole, arguments: Sequence[Any]):
    """Return the compiled step of all members: as listed, as it began, or the faster one.

    arguments: of the step, the last of them the batches; none of it is used up.
    """
    names, how = list(read(root)["members"]), read(root)["how"]
    platform = whole.plans[0].parts.mesh.devices.flat[0].platform
    if not how and listed.how == "auto" and platform != "cpu":
        steps = {each: whole.compiled(each) for each in members_lib.HOW}
        *given, batches = arguments
        position = batches.state()
        how, seconds = members_lib.choose(steps, (*given, next(batches)))
        # The batch that was timed is trained on all the same.
        batches.restore(position)
        shown = ", ".join(f"{each} {own:.4f} s" for each, own in seconds.items())
        sys.stderr.write(f"members: {shown} a step; training with {how}\n")
    # On a CPU batched products are slower than their parts, and hold the temporaries of all.
    how = how or ("map" if listed.how == "auto" else listed.how)
    write(root, names, how=how)
    return whole.compiled(how)


# -- going on --------------------------------------------------------------------------------------


def resume(
    kept: Mapping[str, session.Records], found: Mapping[str, plans.Plan], batches
) -> tuple[int, dict[str, Restored]] | None:
    """Restore all members from the newest step that each has whole; None where they begin.

    Raises:
      ValueError: one has lost its checkpoints.
    """
    step = _common(kept)
    for own in kept.values():
        own.checkpoints.drop_after(-1 if step is None else step)
    if step is None:
        for own in kept.values():
            rewind(own.writers, -1, rows=0)
        return None
    restored = {
        name: own.checkpoints.restore(found[name].state, step=step) for name, own in kept.items()
    }
    for name, own in kept.items():
        progress = restored[name].data["progress"]
        rewind(own.writers, step - (progress["row"] is not None), rows=progress["rows"])
    position = [restored[name].data["batches"] if name in restored else None for name in found]
    batches.restore({"members": position})
    return step, restored


def _common(kept: Mapping[str, session.Records]) -> int | None:
    """Return the newest step that all members have, and whole; None where none has saved twice."""
    while True:
        steps = {name: set(own.checkpoints.steps()) for name, own in kept.items()}
        steps = processes.on_first(lambda steps=steps: steps)
        shared = set.intersection(*steps.values())
        step = max(shared, default=-1)
        for name, own in steps.items():
            # A kill leaves one save that the others lack; more are lost otherwise.
            if len([each for each in own if each > step]) > 1:
                raise ValueError(
                    f"{kept[name].artifacts.workdir}: got checkpoints {sorted(own)}, and other "
                    f"members have {sorted(shared)} of them; expected all members to have the same "
                    "but for the last; put the missing ones back, or choose another directory"
                )
        if not shared:
            return None
        # All are asked: a damaged one is set aside, and the step before is tried.
        if all([own.checkpoints.is_good(step) for own in kept.values()]):
            return step
