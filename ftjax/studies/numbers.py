"""The numbers of a study: methods at a matched score, and what each sequence did to every task.

    gain_t       = (score - base_t) / (top_t - base_t)     of task t: 0 the base's, 1 the top
    forgetting   = mean over old abilities of reference - score

Scores are such that more is better: of a loss its negative, so that forgetting is in nats. Top is
the joint control's score, or the best of all cells right after learning. Old are the probes, which
are compared with the base, and the tasks of earlier stages, with what they were right after these.
A stage's checkpoints are a trajectory (gain of its task, forgetting); a method is compared where
its gain first reaches the fraction of the match, averaged over stages, orders and seeds, at the
best of its rates. A rate at which one of these runs misses it has no number.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ftjax.evals.lib import bootstrap, front, matrix, noise
from ftjax.studies import chance, differences, predictors
from ftjax.studies.controls import JOINT
from ftjax.studies.outcomes import CellScores, Scores, per_example, score
from ftjax.studies.study import Study, is_measured

NOTHING = {"measures": {}, "probes": {}, "stages": None}  # of a rate at which all diverged


class Task(NamedTuple):
    """The scale of a task: its scores before and at the top, and whose the top is.

    Of one that is to be recovered the score before is that of the stage, and the top the base's.
    """

    label: str
    base: float
    top: float
    top_of: str

    def gain(self, value: float) -> float:
        """Return what a score is on the scale from base (0) to top (1)."""
        return (value - self.base) / (self.top - self.base)


def compute(
    study: Study, base: Scores, found: Sequence[CellScores], *, resamples: int = bootstrap.RESAMPLES
) -> dict[str, Any]:  # fmt: skip
    """Compute all numbers of the report, for JSON; `resamples` are behind every interval.

    Raises:
      ValueError: no cell learned anything of a task, so that there is nothing to match, or there is
        nothing that the base can do and could forget.
    """
    left_out = chance.left_out(study, base)
    study = _without(study, left_out)
    tasks = scales(study, base, found)
    own = [one for one in found if not one.cell.is_joint]
    points = {one.cell.label: at_end(study, tasks, base, one) for one in own if not one.reason}
    options = dict(resamples=resamples)
    methods = {
        name: _method(study, tasks, base, own, name, options, points) for name in study.methods
    }
    return {
        "match": study.match._asdict(),
        "tasks": {name: task._asdict() for name, task in tasks.items()},
        "left_out": left_out,
        "probes": {label: score(base, label, study.match.metric) for label in study.probes},
        "cells": [_cell(study, base, one, points.get(one.cell.label)) for one in found],
        "methods": methods,
        "compared": differences.compared(methods),
        "padded": differences.padded(study, methods),
        "front": _front(points),
        "axes": study.axes,
        "drift": predictors.compute(study, base, own),
    }


def _without(study: Study, left_out: Mapping[str, str]) -> Study:
    """Leave probes out that are at chance from the beginning."""
    kept = tuple(label for label in study.probes if label not in left_out)
    if not kept and len(study.tasks) < 2:
        shown = "; ".join(f"{label}: {text}" for label, text in left_out.items())
        raise ValueError(
            f"study.probes: got {', '.join(study.probes)}, on which the base is at chance "
            f"({shown}); expected one that it can do, since nothing else could be forgotten"
        )
    return dataclasses.replace(study, probes=kept)


def scales(study: Study, base: Scores, found: Sequence[CellScores]) -> dict[str, Task]:
    """Find the scale of every task."""
    tasks, metric = {}, study.match.metric
    for name in study.tasks:
        label = study.label_of(name)
        low = score(base, label, metric)
        if name in study.recover:
            tasks[name] = _lost(study, found, name, known=low)
            continue
        tops = {one.cell.label: value for one in found
                if (value := _learned(study, one, name)) is not None}  # fmt: skip
        joint = {x.cell.label for x in found if x.cell.is_joint} & tops.keys()
        best = max(joint or tops, key=tops.get, default=None)
        if best is None or tops[best] <= low:
            raise ValueError(
                f"study.tasks: got {name!r}, of which no cell learned anything: {metric} is "
                f"{low:.4g} before and {tops.get(best, math.nan):.4g} at best after (less is "
                "worse); expected a task that can be learned; change steps or rates"
            )
        tasks[name] = Task(label, low, tops[best], best)
    return tasks


def _lost(study: Study, found: Sequence[CellScores], name: str, *, known: float) -> Task:
    """Find the scale of a task that the base knew: from what its stage began with to the base's.

    Raises:
      ValueError: the stages before took nothing away.
    """
    label, metric = study.label_of(name), study.match.metric
    places = [(one, one.cell.tasks.index(name)) for one in found if not one.cell.is_joint]
    begun = [score(one.after[n - 1], label, metric) for one, n in places if len(one.after) >= n]
    low = float(np.mean(begun)) if begun else math.nan
    if not low < known:
        raise ValueError(
            f"study.recover: got {name!r}, of which nothing was lost: {metric} is {known:.4g} of "
            f"the base and {low:.4g} before its stage; expected earlier stages that take some away"
        )
    return Task(label, low, known, "the base")


def _learned(study: Study, one: CellScores, task: str) -> float | None:
    """Return the score of a task right after its own stage, None where there is no such stage."""
    place = 0 if one.cell.is_joint else one.cell.tasks.index(task)
    if place >= len(one.after):
        return None
    value = score(one.after[place], study.label_of(task), study.match.metric)
    return value if math.isfinite(value) else None


# -- learned against forgotten ---------------------------------------------------------------------


def trajectories(
    study: Study, tasks: Mapping[str, Task], base: Scores, one: CellScores
) -> list[front.Trajectory]:  # fmt: skip
    """Return (gain, forgetting) along every stage of a cell; of one without old abilities, none."""
    metric, found = study.match.metric, []
    reference = {label: score(base, label, metric) for label in study.probes}
    for task, checkpoints, end in zip(one.cell.tasks, one.within, one.after, strict=False):
        if reference:
            lost = lambda at, known: np.mean([known[x] - score(at, x, metric) for x in known])
            gains = [tasks[task].gain(score(at, tasks[task].label, metric)) for at in checkpoints]
            forgot = [float(lost(at, reference)) for at in checkpoints]
            found.append(front.Trajectory(gains, forgot))
        label = tasks[task].label
        reference = reference | {label: score(end, label, metric)}
    return found


def at_match(study: Study, tasks, base: Scores, one: CellScores) -> float | front.NotReached:
    """Average the forgetting at the matched score over the stages of a cell; NaN if it diverged."""
    if one.reason:
        return math.nan
    target = study.match.fraction
    values = [front.forgetting_at(target, t) for t in trajectories(study, tasks, base, one)]
    missed = [value for value in values if isinstance(value, front.NotReached)]
    return min(missed, key=lambda m: m.best) if missed else float(np.mean(values))


def at_end(study: Study, tasks, base: Scores, one: CellScores) -> tuple[float, float]:
    """Return (gain right after learning, forgetting after the last stage), means of a cell."""
    metric = study.match.metric
    gain = np.mean([tasks[t].gain(_learned(study, one, t)) for t in one.cell.tasks])
    known = {label: score(base, label, metric) for label in study.probes}
    for task in one.cell.tasks[:-1]:
        known[tasks[task].label] = _learned(study, one, task)
    lost = [known[x] - score(one.after[-1], x, metric) for x in known]
    return float(gain), float(np.mean(lost))


def _front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """List the cells that no other one dominates, by growing gain."""
    labels = [label for label, point in points.items() if np.isfinite(point).all()]
    kept = front.front([(points[label][0], -points[label][1]) for label in labels])
    return [labels[i] for i in kept]


def _method(
    study: Study, tasks, base: Scores, found: Sequence[CellScores], method: str, options: Mapping,
    points: Mapping[str, tuple[float, float]],
) -> dict:  # fmt: skip
    """Compute the match of a method, and the measures of each of its rates."""
    values, rates = {}, {}
    for rate in study.rates[method]:
        runs = [one for one in found if (one.cell.method, one.cell.rate) == (method, rate)]
        values[rate] = {x.cell: at_match(study, tasks, base, x) for x in runs}
        whole = [one for one in runs if not one.reason]
        measures = _measures(study, tasks, base, whole, options) if whole else NOTHING
        end = _end(study, [one.cell for one in whole], points)
        rates[f"{rate:g}"] = _rate(values[rate]) | {"end": end} | measures
    chosen = front.choose_rate(
        {rate: _together(list(own.values())) for rate, own in values.items()}, study.match.fraction
    )
    return {"matched": _matched(study, chosen, values), "rates": rates}


def _together(values: Sequence[float | front.NotReached]) -> float | front.NotReached:
    """Average over runs; missed if one of them missed, NaN if one of them diverged."""
    missed = [value for value in values if isinstance(value, front.NotReached)]
    return min(missed, key=lambda m: m.best) if missed else float(np.mean(values))


def _rate(values: Mapping[Any, float | front.NotReached]) -> dict:
    reached = [v for v in values.values() if isinstance(v, float) and math.isfinite(v)]
    return {
        "runs": len(values),
        "reached": len(reached),
        "diverged": sum(isinstance(v, float) and math.isnan(v) for v in values.values()),
        "forgetting_at_match": _over_runs(reached) if len(reached) == len(values) else None,
    }


def _end(study: Study, runs: Sequence, points: Mapping[str, tuple[float, float]]) -> dict | None:
    """Return gain and forgetting after the last stage, means over runs, and their noise floors."""
    if not runs:
        return None
    found = {}
    for n, name in enumerate(("gain", "forgetting")):
        found[name] = _over_runs([points[cell.label][n] for cell in runs])
        own = [[points[c.label][n] for c in runs if c.seed == seed] for seed in study.seeds]
        floor = _floor([np.mean(x) for x in own]) if len(own) > 1 and all(own) else None
        found[f"{name}_floor"] = floor.value if floor else None
    return found


def _floor(by_seed: Sequence[float]) -> noise.Floor:
    """Return the noise floor of a difference of two means over so many seeds."""
    return noise.floor(by_seed, runs=len(by_seed))


def _over_runs(values: Sequence[float]) -> dict:
    """Return the mean over runs and its interval, over other runs of that kind."""
    values = np.asarray(values, np.float64)
    draws = [
        values[i].mean()
        for i in bootstrap.indices(len(values), seed=0, resamples=bootstrap.RESAMPLES)
    ]
    low, high = bootstrap.interval(draws, level=0.95)
    return bootstrap.Estimate(float(values.mean()), low, high, len(values))._asdict()


def _matched(study: Study, chosen: front.Match, values: Mapping) -> dict:
    """Describe the best rate of a method; the noise floor is that of its seeds."""
    if chosen.rate is None:
        runs = [value for own in values.values() for value in own.values()]
        diverged = all(isinstance(v, float) for v in runs)
        return {"text": "diverged" if diverged else str(chosen.forgetting), "rate": None}
    own = values[chosen.rate]
    by_seed = [np.mean([v for cell, v in own.items() if cell.seed == s]) for s in study.seeds]
    floor = _floor(by_seed)._asdict() if len(by_seed) > 1 else None
    found = _over_runs(list(own.values()))
    text = f"{found['value']:.3f}"
    return {"text": text, "rate": chosen.rate, "at_edge": chosen.at_edge, "floor": floor} | found


def text(report: Mapping) -> str:
    """Write the comparison for a terminal, and what has no result."""
    lines = [("method", "forgetting at match (95 %)", "rate", "difference")]
    for name, own in report["methods"].items():
        m = own["matched"]
        if m["rate"] is None:
            lines.append((name, m["text"], "none", report["compared"][name]))
            continue
        spread = "one run" if m["n"] == 1 else f"{m['low']:.3f} to {m['high']:.3f}"
        shown = f"{m['value']:.3f} ({spread})"
        edge = " (edge)" if m["at_edge"] else ""
        lines.append((name, shown, f"{m['rate']:g}{edge}", report["compared"][name]))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    rows = ["  ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)) for line in lines]
    lost = [f"{c['cell']} diverged: {c['reason']}" for c in report["cells"] if c["reason"]]
    lost += [
        f"{x} beside {own['control']}, new rows in the place of old ones: {own['match']} at "
        f"the match, {own['end']} at the end"
        for x, own in report["padded"].items()
    ]
    lost += [f"{x}: left out, the base is at chance: {t}" for x, t in report["left_out"].items()]
    return "\n".join([*(row.rstrip() for row in rows), *lost])


# -- sequences -------------------------------------------------------------------------------------


def _measures(
    study: Study, tasks, base: Scores, runs: Sequence[CellScores], options: Mapping
) -> dict:  # fmt: skip
    """Compute the measures of the matrix over seeds and orders, and what became of each probe."""
    metric, names = study.match.metric, tuple(study.tasks)
    labels = [study.label_of(task) for task in names]
    table = lambda one: [[per_example(s[x], metric) for x in labels] for s in (base, *one.after)]
    tables = [table(one) for one in runs]
    orders = [[names.index(task) for task in one.cell.tasks] for one in runs]
    wanted = {"avg_accuracy", "learning_accuracy"}
    wanted |= {"bwt", "zero_shot_fwt", "forgetting"} if len(names) > 1 else set()
    found = {
        name: matrix.estimate(terms, tables, orders=orders, **options)._asdict()
        for name, terms in matrix.TERMS.items()
        if name in wanted
    }
    if JOINT in study.controls:
        joint = np.mean([task.top for task in tasks.values()])
        value, low, high, n = found["learning_accuracy"].values()
        # The joint control is one number here: the interval is that of learning alone.
        own = bootstrap.Estimate(joint - value, joint - high, joint - low, n)
        found["intransigence"] = own._asdict()
    change = lambda R: R[0] - R[1]
    probes = {
        label: matrix.estimate(
            change, [_pair(base, x, label, metric) for x in runs], **options
        )._asdict()
        for label in study.probes
    }
    stages = {
        "order": list(runs[0].cell.tasks),
        "scores": _by_stage(study, base, [x for x in runs if x.cell.tasks == runs[0].cell.tasks]),
    }
    return {"measures": found, "probes": probes, "stages": stages}


def _pair(base: Scores, one: CellScores, label: str, metric: str) -> list:
    return [[per_example(at[label], metric)] for at in (base, one.after[-1])]


def _by_stage(study: Study, base: Scores, runs: Sequence[CellScores]) -> dict[str, list[float]]:
    """Average the scores of tasks and probes after every stage over runs of one order."""
    order = runs[0].cell.tasks
    labels = {task: study.label_of(task) for task in order} | {p: p for p in study.probes}
    rows = lambda one, label: [score(s, label, study.match.metric) for s in (base, *one.after)]
    return {
        name: np.mean([rows(one, label) for one in runs], 0).tolist()
        for name, label in labels.items()
    }


def _cell(study: Study, base: Scores, one: CellScores, point: tuple[float, float] | None) -> dict:
    """Describe a cell: a row of the report, whether it has a result or not."""
    cell = one.cell
    # Beside what tasks are scored by and probes also what is neither.
    labels = [x for x, spec in study.evals.items()
              if is_measured(spec, study.match.metric, where=x)]  # fmt: skip
    scores = [{x: score(at, x, study.match.metric) for x in labels} for at in (base, *one.after)]
    gain, forgot = point or (None, None)
    return {
        "cell": cell.label, "method": cell.method, "rate": cell.rate, "seed": cell.seed,
        "order": list(cell.tasks), "joint": cell.is_joint,
        "status": "diverged" if one.reason else "done", "reason": one.reason,
        "gain": gain, "forgetting": forgot, "scores": scores, "changes": list(one.changes),
    }  # fmt: skip
