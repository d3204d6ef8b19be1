"""What came out of the cells of a study: the scores of every example after every stage.

found = [collect(study, cell, folder) for cell in cells(study)]
write(folder / "matrix.npz", base, found)

matrix.npz      <cell>/<stage>/<evaluation>/<array>     stage 0, of the base, under "none"
"""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.core import files
from ftjax.evals.lib import retention
from ftjax.run.artifacts import Artifacts
from ftjax.studies.stages import Cell, cells, stages
from ftjax.studies.study import SEPARATE, Study

NONE = "none"
Scores = Mapping[str, Mapping[str, np.ndarray]]  # evaluation -> array -> one number per example


class CellScores(NamedTuple):
    """The scores of a cell: `after` each stage, and `within` each at all its evaluations in order.

    reason: why it has no result: its loss was no number. Stages before that are there.
    changes: how far each stage is from the base, as `studies.stage_changes` measured it.
    """

    cell: Cell
    after: Sequence[Scores]
    within: Sequence[Sequence[Scores]]
    reason: str
    changes: Sequence[Mapping] = ()


def read(workdir: pathlib.Path, step: int) -> Scores:
    """Read the scores of every example at a step of a run."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(Artifacts(workdir).scores(step)) as arrays:
        for key in arrays:
            label, _, name = key.rpartition("/")
            found.setdefault(label, {})[name] = arrays[key]
    return found


def base(folder: pathlib.Path) -> Scores:
    """Read the scores of the control without training."""
    return read(folder / NONE, 0)


def changes_of_base(study: Study, folder: pathlib.Path) -> Mapping | None:
    """Read how far the base is from itself; None where changes are not measured."""
    return files.read_json(folder / NONE / "changes.json") if study.changes else None


def parameters_of_base(study: Study, folder: pathlib.Path) -> int | None:
    """Read how many parameters the base has, of the first run that ended; None where none did."""
    for cell in cells(study):
        first = stages(study, cell, folder)[0]
        if not first.outcome().diverged:
            return files.read_json(Artifacts(first.workdir).summary).get("base_parameters")
    return None


def collect(study: Study, cell: Cell, folder: pathlib.Path) -> CellScores:
    """Read the scores of a cell whose stages have ended, or that has diverged.

    Where every task has its own adapter, a task keeps the scores that it had with that.
    """
    after, within, moved = [], [], []
    kept: dict[str, Mapping[str, np.ndarray]] = {}
    for stage in stages(study, cell, folder):
        outcome = stage.outcome()
        if outcome.diverged:
            return CellScores(cell, after, within, f"{stage.task}: {outcome.diverged}", moved)
        steps = [s for s in Artifacts(stage.workdir).evaluated() if s <= outcome.step]
        within.append([{**read(stage.workdir, step), **kept} for step in steps])
        after.append(within[-1][-1])
        if study.carry == SEPARATE and not cell.is_joint:
            label = study.label_of(stage.task)
            kept[label] = after[-1][label]
        moved += [files.read_json(stage.changes)] if study.changes else []
    return CellScores(cell, after, within, "", moved)


def write(path: pathlib.Path, base: Scores, found: Sequence[CellScores]) -> None:
    """Write the matrix; the same scores are the same bytes."""
    rows = {f"{NONE}/0": base}
    for one in found:
        rows |= {f"{one.cell.label}/{n}": scores for n, scores in enumerate(one.after, 1)}
    arrays = {
        f"{row}/{label}/{name}": array
        for row, scores in rows.items()
        for label, own in scores.items()
        for name, array in own.items()
    }
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    files.write_bytes(path, packed.getvalue())


# -- scores of a metric ----------------------------------------------------------------------------


def per_example(arrays: Mapping[str, np.ndarray], metric: str) -> np.ndarray:
    """Return numbers [n] whose mean is the metric, such that more is better.

    Sums over tokens are divided by the mean count of tokens, so that their mean is that over all
    tokens together.
    """
    values = arrays["correct" if metric == "accuracy" else metric]
    per = arrays["tokens"].mean() if "tokens" in arrays else 1.0
    return retention.direction(metric) * values / per


def score(scores: Scores, label: str, metric: str) -> float:
    """Return the metric of an evaluation, such that more is better."""
    return float(per_example(scores[label], metric).mean())
