"""What the jobs of a sweep came to: a row each, as CSV and as a page, read from workdirs alone.

A row has the job's id, label, state, reason, attempts, step and seconds, the dotted keys that vary,
and of a job that is done its model FLOPs (those of MFU) and its last metrics; where an evaluation
gives an interval of its change from before training, `<metric> change`, `<metric> low` and
`<metric> high` (95 %).
"""

import csv
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ftjax.core import config as conf
from ftjax.core import dotted, files
from ftjax.evals.lib import retention
from ftjax.launch.lib import effects
from ftjax.launch.lib import jobs as jobs_lib
from ftjax.launch.lib.jobs import Job
from ftjax.report import page, sweep_figures, table, writers
from ftjax.run import unit

MAX_CURVES = 5  # as many as a page has colours
CURVES = ("loss",)


def rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Collect a row of each job."""
    keys, found = jobs_lib.varying(jobs), []
    for job in jobs:
        now, flat = unit.read(job.artifacts), dotted.flatten(job.config)
        own = dict(id=job.id, label=job.label, state=now.state, reason=now.reason,
                   attempt=now.attempt, step=now.step, seconds=round(now.spent, 1))  # fmt: skip
        own |= {key: flat.get(key) for key in keys}
        found.append(own | (_metrics(job) if now.state == "done" else {}))
    return found


def _metrics(job: Job) -> dict[str, float]:
    summary = files.read_json(job.artifacts.summary)
    found = {"flops": summary["flops"]} if "flops" in summary else {}
    found |= {k: v for k, v in summary["metrics"].items() if not k.startswith(writers.CLOCK)}
    for row in learned(job).rows:
        name, interval = f"eval/{row.label}/{row.metric}", row.intervals[-1]
        found[f"{name} change"] = row.change(len(row.values) - 1)
        if interval is not None:
            found[f"{name} low"], found[f"{name} high"] = interval
    return found


def learned(job: Job) -> table.Table:
    """Read the table of what a finished job learned and forgot."""
    known = files.read_json(job.artifacts.summary).get("learned", [])
    pair = lambda interval: None if interval is None else tuple(interval)
    own = [
        table.Row(
            each["label"], each["metric"], each["group"], tuple(each["values"]),
            tuple(map(pair, each["intervals"])), tuple(map(pair, each.get("bounds", ()))),
            each.get("stated") and table.Metric(*each["stated"]),
        )
        for each in known
    ]  # fmt: skip
    return table.Table(("before", job.label), tuple(own))


def ranked(found: Sequence[Mapping], best: str) -> list[Mapping]:
    """Sort rows by a metric, the best first; those without it keep their order behind.

    Raises:
      ValueError: no row has it, or it is not known whether less of it is better.
    """
    names = {key for row in found for key, value in row.items() if isinstance(value, float)}
    if best not in names:
        raise ValueError(
            f"--best: got {best!r}; expected a metric of a finished job, one of "
            f"{conf.listed(names)}; {conf.nearest(best, names)}"
        )
    sign = retention.direction(best.rsplit("/", 1)[-1])
    has = [row for row in found if row.get(best) is not None]
    return sorted(has, key=lambda row: -sign * row[best]) + [r for r in found if r not in has]


def csv_text(found: Sequence[Mapping]) -> str:
    """Write rows as CSV, a column for every key of any of them."""
    names = list(dict.fromkeys(name for row in found for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in found)
    return out.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def write(jobs: Sequence[Job], root: pathlib.Path, *, best: str = "") -> list[pathlib.Path]:
    """Write `sweep.csv` and `report.html` of a sweep, the best jobs first, and return both.

    best: a metric of finished jobs; without it jobs keep their order. Members are jobs here.
    """
    jobs = jobs_lib.with_members(jobs)
    found = rows(jobs)
    found = ranked(found, best) if best else found
    by_id = {job.id: job for job in jobs}
    every = [by_id[row["id"]] for row in found if row["state"] == "done"]
    done = every[:MAX_CURVES]
    states = [row["state"] for row in found]
    facts = {"jobs": len(jobs), **{state: states.count(state) for state in dict.fromkeys(states)}}
    facts |= {"best by": best} if best else {}
    if len(every) > MAX_CURVES:
        facts["curves of"] = f"{'best' if best else 'first'} {MAX_CURVES} of {len(every)} done"
    report = page.write(
        root / "report.html", title=root.name, rows=_curves(done), facts=facts,
        config={job.label: job.config for job in jobs}, jobs=shown(found, jobs),
        table=table.join({job.label: learned(job) for job in done}) if done else None,
        effects=figures(found, jobs, metric=best or metric_of(every)),
    )  # fmt: skip
    return [files.write_text(root / "sweep.csv", csv_text(found)), report]


def metric_of(done: Sequence[Job]) -> str:
    """Return the first metric of the new task, or "loss" where nothing was evaluated."""
    for job in done:
        for row in learned(job).rows:
            if row.group == "new":
                return f"eval/{row.label}/{row.metric}"
    return "loss"


def figures(found: Sequence[Mapping], jobs: Sequence[Job], *, metric: str) -> dict[str, str]:
    """Draw what the keys of finished jobs did to a metric; nothing of fewer than three."""
    known = [row for row in found if isinstance(row.get(metric), float)]
    keys, values = jobs_lib.varying(jobs), [row[metric] for row in known]
    axes = effects.axes_of([{key: row[key] for key in keys} for row in known])
    if len(known) < 3 or not axes:
        return {}
    direction = -1 if metric == "loss" else retention.direction(metric.rsplit("/", 1)[-1])
    shares = [effects.share(own, values) for own in axes]
    return sweep_figures.draw(axes, values, metric=metric, direction=direction, shares=shares)


def _curves(done: Sequence[Job]) -> list[dict]:
    return [
        {"step": row["step"], **{f"run/{job.label}/{k}": row[k] for k in CURVES if k in row}}
        for job in done
        for row in writers.read(job.artifacts.metrics)
    ]


def text(grid: page.Grid) -> str:
    """Lay a table of texts out in columns."""
    lines = [grid.columns, *grid.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pad = lambda line: "  ".join(f"{x:<{n}}" for x, n in zip(line, widths, strict=True)).rstrip()
    return "\n".join(map(pad, lines))


def shown(found: Sequence[Mapping], jobs: Sequence[Job]) -> page.Grid:
    """Choose the columns of rows that a person reads: what varies, metrics worth a look, states."""
    keys = jobs_lib.varying(jobs)
    metrics = [
        name
        for name in dict.fromkeys(name for row in found for name in row)
        if name == "loss" or (name.startswith("eval/") and name.rsplit("/", 1)[-1] in table.SHOWN)
    ]
    names = ["label", "state", "step", "seconds", *keys, *metrics, "reason"]
    text = lambda value: f"{value:.4g}" if isinstance(value, float) else str(_cell(value))
    cell = lambda value: "" if value is None else text(value)
    return page.Grid(names, [[cell(row.get(name)) for name in names] for row in found])
