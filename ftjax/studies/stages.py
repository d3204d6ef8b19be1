"""The cells of a study, and the stages of each: which config, where, and what it starts from.

    for cell in cells(study):
        for stage in stages(study, cell, folder):
            stage.settings, stage.workdir, stage.outcome()

A stage is a run like any other. What it starts from is the export of the stage before:

    continued   the adapter goes on training
    stacked     it stays as it is, a fresh one comes on top (`adapter.past`)
    merged      it is merged into the weights, a fresh one starts from these
    separate    every task has one of its own over the base, and is evaluated with that from then on
    full        no adapters: all weights go on training

A penalty that says `past=""` finds there what its like of the stage before has left.
Without an adapter the weights go on training, whatever the carry. Exports are in the base's type;
model.param_dtype="float32" carries the weights of a base in bfloat16 unrounded.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from ftjax.core import files, processes
from ftjax.run import config as settings_lib
from ftjax.run.artifacts import Artifacts
from ftjax.studies import controls
from ftjax.studies.controls import JOINT
from ftjax.studies.study import SEPARATE, Study


class Cell(NamedTuple):
    """A method at a rate with a seed over the tasks in one order; of the joint control, at once."""

    label: str  # of its folder
    method: str
    rate: float
    seed: int
    tasks: tuple[str, ...]
    is_joint: bool = False


class Outcome(NamedTuple):
    """How a stage ended: at a step, or why it has no result."""

    step: int | None
    diverged: str


@dataclasses.dataclass(frozen=True)
class Stage:
    """One run of a cell; number: from 1 on."""

    number: int
    task: str
    settings: settings_lib.Settings
    workdir: pathlib.Path
    identity: str  # a hash of its config, whatever the folder

    @property
    def _marker(self) -> pathlib.Path:
        return self.workdir / "stage.json"

    @property
    def changes(self) -> pathlib.Path:
        """The file of how far its model is from the base; see `studies.stage_changes`."""
        return self.workdir / "changes.json"

    def outcome(self) -> Outcome | None:
        """Read how the stage ended; None where it has not.

        Raises:
          ValueError: it was run with another config.
        """
        if not self._marker.is_file():
            return None
        known = files.read_json(self._marker)
        if known.get("config") != self.identity:
            raise ValueError(
                f"--workdir: got {self.workdir}, which was run with another config; expected the "
                "study as it began; undo the change, or choose another directory"
            )
        return Outcome(known["step"], known["diverged"])

    def end(self, *, diverged: str = "") -> Outcome:
        """Record that the stage has ended, after its last evaluation or with a loss of NaN."""
        step = None if diverged else Artifacts(self.workdir).evaluated()[-1]
        known = {"step": step, "diverged": diverged, "config": self.identity}
        # All processes wait: who reads it next, finds it.
        processes.on_first(lambda: bool(files.write_json(self._marker, known)))
        return Outcome(step, diverged)


def cells(study: Study) -> list[Cell]:
    """List the cells, those of the joint control last; it has the method that is named first."""
    name = lambda method, rate, seed: f"{method}_{rate:g}_s{seed}"
    found = [
        Cell(f"{name(method, rate, seed)}_o{number}", method, rate, seed, order)
        for method in study.methods
        for rate in study.rates[method]
        for seed in study.seeds
        for number, order in enumerate(study.orders)
    ]
    if JOINT in study.controls:
        first, tasks = next(iter(study.methods)), tuple(study.tasks)
        found += [
            Cell(name(JOINT, rate, seed), first, rate, seed, tasks, is_joint=True)
            for rate in study.rates[first]
            for seed in study.seeds
        ]
    return found


def base_of(study: Study) -> str:
    """Return the base that the first stage of every cell starts from, as `model.base` names it."""
    cell = cells(study)[0]
    return _plain(study, cell, cell.tasks[0])["model"]["base"]


def stages(study: Study, cell: Cell, folder: pathlib.Path) -> list[Stage]:
    """Make the stages of a cell, in DIR/cells/<cell>/<number>_<task>.

    Raises:
      ValueError: a config that cannot be read, or that the study's carry does not fit.
    """
    plains = [_plain(study, cell, task) for task in cell.tasks]
    named = list(zip(cell.tasks, plains, strict=True))
    if cell.is_joint:
        named = [(JOINT, controls.joined(dict(named)))]
    found: list[Stage] = []
    for number, (task, plain) in enumerate(named, 1):
        digest = hashlib.sha256(json.dumps(files.plain(plain), sort_keys=True).encode())
        own = _carried(plain, study.carry, found[-1].workdir if found else None)
        workdir = folder / "cells" / cell.label / f"{number}_{task}"
        found.append(Stage(number, task, settings_lib.read(own), workdir, digest.hexdigest()))
    return found


def _plain(study: Study, cell: Cell, task: str) -> dict:
    """Load the config of a task, with the evaluations of all."""
    config = study.config_of(cell.method, task, rate=cell.rate, seed=cell.seed)
    plain = settings_lib.read(config).plain
    if cell.method in study.padded:
        plain = controls.padded(plain)
    later = cell.tasks[cell.tasks.index(task) + 1 :]

    def group(label: str) -> str:
        owner = study.owners.get(label)
        if owner is None or cell.is_joint:
            return "new" if owner else "old"
        return "new" if owner == task else "later" if owner in later else "old"

    evals = {label: dict(spec, group=group(label)) for label, spec in study.evals.items()}
    # Of the study's base, also where a stage starts from a merged copy of it: one for all.
    tokenizer = plain["tokenizer"] or plain["model"]["base"]
    return plain | {"evals": evals, "tokenizer": tokenizer}


def _carried(plain: Mapping, carry: str, before: pathlib.Path | None) -> dict:
    """Let a stage start from the one before."""
    has_adapter = bool(plain["adapter"].get("name"))
    if carry == "full" and has_adapter:
        raise ValueError(
            f"study.carry: got 'full', where all weights go on, for a method with the adapter "
            f"{plain['adapter']['name']!r}; expected 'merged', 'continued' or 'stacked'; or take "
            "the adapter out"
        )
    if carry == SEPARATE and not has_adapter:
        raise ValueError(
            "study.carry: got 'separate', where every task has an adapter of its own, for a method "
            "without one; expected 'full' or 'merged'; or give it an adapter"
        )
    form = "model" if carry == "merged" or not has_adapter else "adapter"
    own = dict(plain, export=dict(plain["export"], form=form))
    if before is None or carry == SEPARATE:
        return own
    own |= {"penalties": _with_past(own["penalties"], before)}
    export = str(Artifacts(before).export)
    if form == "model":
        return own | {"model": dict(plain["model"], base=export, preset="")}
    if carry == "continued":
        return own | {"adapter_from": export}
    return own | {"adapter": dict(plain["adapter"], past=(export,))}


def _with_past(penalties: Mapping, before: pathlib.Path) -> dict:
    """Name the stage before to penalties that have the key `past`, such as SI."""
    follow = lambda spec: dict(spec, past=str(before)) if "past" in spec else spec
    return {label: follow(spec) for label, spec in penalties.items()}


def check(study: Study, folder: pathlib.Path) -> None:
    """Check the first stage of every method, and the joint run, before any of them starts.

    Raises:
      ValueError: naming the method.
    """
    seen = set()
    for cell in cells(study):
        key = (cell.method, cell.is_joint)
        if key in seen:
            continue
        seen.add(key)
        try:
            stages(study, cell, folder)
        except ValueError as error:
            raise ValueError(f"study.methods.{cell.method}: {error}") from error
