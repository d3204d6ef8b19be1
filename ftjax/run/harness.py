"""Tasks of EleutherAI's lm-evaluation-harness, on a run's base and on a checkpoint.

    chosen = choose(["arc_easy", "hellaswag"])          # what needs no weights, checked
    found = compare(run, chosen, limit=100)
    print(text(found));  record(found)

Its tasks, prompts, metrics and standard errors are the harness's own; only the model is ours (see
`harness_model`). Changes have intervals beside: paired by document, wherever a metric is the mean
of a number per document.
"""

import dataclasses
import importlib.metadata
import importlib.util
import itertools
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ftjax.core.config import nearest
from ftjax.evals.lib import bootstrap
from ftjax.report import table as tables
from ftjax.run import reader
from ftjax.run.harness_model import Engine, as_lm

PACKAGE = "lm_eval"
# Of the few metrics whose standard error has no closed form; 1000 draws know it to 2 %.
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The harness's names of tasks, and its manager, which knows them."""

    names: list[str]
    manager: Any


class Score(NamedTuple):
    """One metric of one task, with the harness's standard errors (None where it has none)."""

    row: tables.Row  # base and checkpoint
    stderr: tuple[float | None, float | None]
    is_judged: bool  # whether the harness knows which direction is better

    @property
    def name(self) -> str:
        """Its key in the file of results."""
        return f"{self.row.label}/{self.row.metric}"


@dataclasses.dataclass(frozen=True)
class Found:
    """The scores of all tasks, and how they were made."""

    step: int
    scores: list[Score]
    settings: dict
    cut: int  # contexts that were longer than the model reads


def choose(names: Sequence[str], *, include: str = "") -> Chosen:
    """Find tasks, groups and tags by their names, in which `*` stands for anything.

    include: a folder of YAML files of further tasks.

    Raises:
      ValueError: several processes, the package is not installed, or no such folder or task.
    """
    if jax.process_count() > 1:
        # Data sets and their caches are the harness's: each process would fetch them by itself.
        raise ValueError(
            f"--lm_eval: got {jax.process_count()} processes; expected one, which may have all "
            "devices of its host; pass --processes 1"
        )
    if importlib.util.find_spec(PACKAGE) is None:
        raise ValueError(
            f"--lm_eval: got {','.join(names)}, and the package {PACKAGE} is not installed; "
            "expected the extra `lm_eval`; pip install 'ftjax[lm_eval]'"
        )
    if include and not pathlib.Path(include).is_dir():
        raise ValueError(
            f"--lm_eval_include: got {include!r}; expected a folder of YAML files of tasks"
        )
    from lm_eval import tasks  # reads the index of all tasks: slow

    manager = tasks.TaskManager(include_path=include or None)
    found = {name: manager.match_tasks([name]) for name in names}
    for name, matches in found.items():
        if not matches:
            raise ValueError(
                f"--lm_eval: got {name!r}; expected tasks of the harness; "
                f"{nearest(name, manager.all_tasks)}`lm_eval ls tasks` lists them"
            )
    return Chosen(list(dict.fromkeys(itertools.chain(*found.values()))), manager)


def compare(
    run: reader.Run, chosen: Chosen, *, limit: int | None = None, num_fewshot: int | None = None,
    chat: bool = False, batch_size: int = 8,
) -> Found:  # fmt: skip
    """Evaluate the run's base and its checkpoint on the same documents.

    Args:
      limit: documents of each task, the first; all when not given.
      num_fewshot: examples in a prompt; the task's own number when not given.
      chat: write prompts, their examples among them, as turns of the run's chat template.
      batch_size: sequences at a time.

    Raises:
      ValueError: something of a task that the model cannot do, named.
    """
    sides = (run.base, run.params)
    # The same contexts for both, also where virtual tokens take some of the positions of one.
    longest = min(run.parts.model.max_length(each.get("adapters")) for each in sides)
    engine = Engine(run.parts, longest=longest, chat=chat, batch_size=batch_size)
    options = dict(limit=limit, num_fewshot=num_fewshot, apply_chat_template=chat)
    before = _evaluate(as_lm(engine, run.base), chosen, options)
    cut = engine.cut["contexts"]
    after = _evaluate(as_lm(engine, run.params), chosen, options)
    own = dict(version=importlib.metadata.version(PACKAGE), chat=chat, limit=limit)
    own |= dict(tasks=chosen.names, versions=after["versions"], longest=longest)
    own |= dict(num_fewshot=num_fewshot, fewshot=after["n-shot"], documents=after["n-samples"])
    return Found(run.step, scores(before, after), own, cut)


def _evaluate(lm, chosen: Chosen, options: Mapping) -> dict:
    from lm_eval import evaluator

    # Its bootstrap forks a process a core, and a fork of a process that runs jax can hang for ever.
    os.environ["DISABLE_MULTIPROC"] = "1"
    return evaluator.simple_evaluate(
        model=lm, tasks=list(chosen.names), task_manager=chosen.manager, torch_random_seed=None,
        bootstrap_iters=RESAMPLES, **options,
    )  # fmt: skip


def scores(before: Mapping, after: Mapping) -> list[Score]:
    """Pair the metrics of two results of the harness, of the same tasks."""
    return [
        _score(before, after, task, key)
        for task, metrics in after["results"].items()
        for key, value in metrics.items()
        # Beside "metric,filter" there are names and counts, and errors under names of their own.
        if "," in key and "_stderr," not in key and _is_number(value)
    ]


def _score(before: Mapping, after: Mapping, task: str, key: str) -> Score:
    metric, _, kind = key.partition(",")
    sides = [each["results"][task] for each in (before, after)]
    values = tuple(float(side[key]) for side in sides)  # some are numpy's, which JSON has not
    errors = (side.get(f"{metric}_stderr,{kind}") for side in sides)
    rows = (each["samples"].get(task, ()) for each in (before, after))  # a group has none
    better = after["higher_is_better"].get(task, {}).get(metric)
    # What a filter made of the answers is a metric of its own.
    name = metric if kind == "none" else key
    stated = tables.Metric(1 if better else -1)
    row = tables.Row(task, name, "old", values, (None, _change(*rows, key, values)), stated=stated)
    known = tuple(float(each) if _is_number(each) else None for each in errors)
    return Score(row, known, better is not None)


def _change(before: Sequence, after: Sequence, key: str, means: tuple) -> tables.Interval | None:
    """Compute the interval of a change by document; None unless the metric is a mean over them."""
    metric, _, kind = key.partition(",")
    values = lambda rows: {
        row["doc_id"]: row[metric]
        for row in rows
        if row["filter"] == kind and _is_number(row.get(metric))
    }
    sides = values(before), values(after)
    if not sides[0] or sides[0].keys() != sides[1].keys():
        return None
    arrays = [{"x": np.array([side[doc] for doc in sides[0]], np.float64)} for side in sides]
    if not np.allclose([each["x"].mean() for each in arrays], means):
        return None
    found = bootstrap.differences(lambda a: {"x": float(a["x"].mean())}, *arrays)["x"]
    return found.low, found.high


def _is_number(value) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def text(found: Found) -> str:
    """Write the table, and below it what was not as it was asked for."""
    head = ["task", "metric", "base", f"step {found.step}", "change"]
    table = tables.aligned([head, *map(_cells, found.scores)], names=2)
    return "\n\n".join([table, *_notes(found)])


def _notes(found: Found) -> Iterator[str]:
    longest, wanted = (found.settings[name] for name in ("longest", "num_fewshot"))
    if found.cut:
        yield f"{found.cut} contexts were cut from the left, to {longest} tokens with their answers"
    # The harness lets a task that is defined without examples stay so.
    other = {task: n for task, n in found.settings["fewshot"].items() if n != wanted}
    if wanted is not None and other:
        yield f"--lm_eval_num_fewshot: {wanted}, but these tasks keep their own numbers: {other}"


def _cells(score: Score) -> list[str]:
    row = score.row
    shown = lambda value, error: (
        tables.number(value) + (f" ±{error:.3f}" if error is not None else "")
    )
    values = map(shown, row.values, score.stderr)
    change = tables.changed(row, 1)
    return [row.label, row.metric, *values, change if score.is_judged else change[:-1] + " "]


def record(found: Found) -> dict:
    """Put the scores into what JSON can hold."""
    named = lambda values: {score.name: values(score) for score in found.scores}
    return {
        "step": found.step,
        "lm_eval": found.settings,
        "cut_contexts": found.cut,
        "before": named(lambda score: score.row.values[0]),
        "after": named(lambda score: score.row.values[1]),
        "stderr": named(lambda score: dict(zip(("before", "after"), score.stderr, strict=True))),
        "change": named(_changed),
    }


def _changed(score: Score) -> dict:
    low, high = score.row.intervals[1] or (None, None)
    return {"value": score.row.change(1), "low": low, "high": high}
