"""What a run leaves behind: exported weights, summary.json, report.html, and the table in print."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from ftjax.core import files, tree
from ftjax.evals.lib import bootstrap
from ftjax.report import goodput, summary, writers
from ftjax.report import page as report
from ftjax.report import table as tables
from ftjax.report.card import Record
from ftjax.run import costs, lengths, report_parts, stated_metrics, unit
from ftjax.run import export as exporting
from ftjax.run.artifacts import Artifacts
from ftjax.run.config import Settings
from ftjax.train import early_stop

# Of every objective; its own metrics come after them.
CURVES = ("loss", "grad_norm", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: "done", "data ended", "SIGTERM" or "SIGINT"; and what it changed."""

    stopped: str
    table: tables.Table | None  # of a run that has ended, in the process that reports

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to train, in every process."""
        return early_stop.has_ended(self.stopped)


def progress(what: str) -> Callable[[int, int], None]:
    """Make a callback `(done, total)` that shows a bar on a terminal and nothing elsewhere."""
    from tqdm import tqdm

    bar = tqdm(desc=what, unit="row", disable=not sys.stderr.isatty(), leave=False)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def finish(
    plan, run, params, workdir: pathlib.Path, *, seconds: float, quiet: bool = False
) -> Outcome:  # fmt: skip
    """Export the weights and write the reports of a run that has ended; quiet: print nothing."""
    if not early_stop.has_ended(run.stopped):
        return Outcome(run.stopped, None)
    record, is_first = None, jax.process_index() == 0
    if is_first:
        learned = table(workdir, plan.evaluation, name="after")
        record = Record(run.step, plan.loader.summary(), learned)
    # In every process, for gathering the weights takes all; the reports take one.
    exporting.update(plan.parts, params, Artifacts(workdir), step=run.step, record=record)
    if not is_first:
        return Outcome(run.stopped, None)
    # Counted against what was written: a log that somebody cut has gaps that no curve shows.
    rows = writers.read(Artifacts(workdir).metrics)
    lost, good = run.rows - len(rows), goodput.measure(rows, run.seconds, wall_s=seconds)
    known = summary.write(
        Artifacts(workdir).summary, result=run, wall_s=seconds,
        bad_rows=[row.message for row in plan.loader.data.bad],
        trainable_parameters=tree.size_of(plan.state.params),
        total_parameters=plan.parts.parameters, data=plan.loader.summary(),
        passes=plan.length.passes_after(run.step),
        flops=costs.of(plan).full * run.tokens,
        base_parameters=tree.size_of(plan.parts.model.abstract),
        base_bytes=tree.bytes_of(params["model"]), lost_rows=lost, goodput=good._asdict(),
        learned=[_plain(row) for row in learned.rows],
    )  # fmt: skip
    _write_page(plan, run, workdir, learned, known, lost=lost)
    # Without evaluations there is no table, and an empty one would look like a failure.
    if learned.rows and not quiet:
        sys.stdout.write(tables.table_text(learned) + "\n")
    if not quiet:
        sys.stdout.write(f"{goodput.line(good, writers.duration)}\n")
        sys.stdout.write(f"report: {Artifacts(workdir).report}\n")
    reason = run.stopped if run.stopped.startswith(early_stop.STOPPED) else ""
    # Last of all: a launcher takes a job that is done for complete.
    unit.finish(Artifacts(workdir), reason=reason)
    return Outcome(run.stopped, learned)


def _write_page(plan, run, workdir: pathlib.Path, learned, known: Mapping, *, lost: int) -> None:
    """Write report.html; known: what summary.json holds."""
    log = {"": writers.read(Artifacts(workdir).metrics)}
    # Of a run among many: the next one goes on while it is drawn.
    pages, write = plan.shared and plan.shared.pages, report.write
    if pages:
        write = functools.partial(pages.write, job=Artifacts(workdir).report_job)
    write(
        Artifacts(workdir).report, title=workdir.name, config=plan.settings.plain,
        rows=curves(workdir, plan.evaluation.stated), table=learned,
        samples=report_parts.samples({"after": workdir}),
        facts=facts(plan, run, log[""], lost=lost), costs=report_parts.costs({"": known}, log),
        made=report_parts.made(known, data=plan.length.text(plan.loader.summary())),
        failures=report_parts.failures(workdir, plan.evaluation.groups),
        links=report_parts.links(workdir),
    )  # fmt: skip


def _plain(row: tables.Row) -> dict:
    """Return a row for JSON: `intervals` are of the change, `bounds` of the values."""
    last = len(row.values) - 1
    known = dict(change=row.change(last), verdict=row.verdict(last), unit=row.unit)
    return row._asdict() | known | {"direction": row.direction}


def join(
    found: Mapping[str, tables.Table], workdir: pathlib.Path, *, failed: Mapping[str, str]
) -> None:
    """Print and report what several runs from one base, in DIR/<label>, learned and forgot.

    failed: by label, why a run has no result.
    """
    if not found:
        return
    learned, rows = tables.join(found), []
    # One axis for all runs: their curves are there to be compared.
    for label in found:
        for row in writers.read(Artifacts(workdir / label).metrics):
            named = {f"run/{label}/{name}": row[name] for name in CURVES if name in row}
            rows.append({"step": row["step"], **named})
    ended = {f"{label} has no result": why for label, why in failed.items()}
    places = {label: workdir / label for label in found}
    config = {label: files.read_json(Artifacts(own).config) for label, own in places.items()}
    known = {label: files.read_json(Artifacts(own).summary) for label, own in places.items()}
    logs = {label: writers.read(Artifacts(own).metrics) for label, own in places.items()}
    report.write(
        Artifacts(workdir).report, title=workdir.name, config=config, rows=rows, table=learned,
        samples=report_parts.samples(places), facts={"runs": ", ".join(found), **ended},
        costs=report_parts.costs(known, logs), made=report_parts.made_here(),
        links={f"{label}/report.html": "its report" for label in found},
    )  # fmt: skip
    lines = "".join(f"\n{name}: {why}" for name, why in ended.items())
    sys.stdout.write(
        f"\n{tables.table_text(learned)}{lines}\n\nreport: {Artifacts(workdir).report}\n"
    )


def facts(plan, run, rows: Sequence[Mapping], *, lost: int = 0) -> dict[str, object]:
    """Collect the headline numbers of a report; `lost` of the rows of metrics.jsonl are gone."""
    own, whole = tree.size_of(plan.state.params), plan.parts.parameters
    return {
        "steps": f"{run.step:,}" + (f" ({run.stopped})" if run.stopped != "done" else ""),
        **({"gradient": f"zero since step {run.vanished}"} if run.vanished else {}),
        **({"log": f"{lost:,} of {run.rows:,} rows are lost"} if lost else {}),
        **_passes(plan, run),
        "tokens": f"{run.tokens:,}" + (f" and {run.padding:,} padding" if run.padding else ""),
        "trainable": f"{own:,} of {whole:,} parameters",
        "time": writers.duration(sum(goodput.spent(rows).values())),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _passes(plan, run) -> dict[str, str]:
    passes = plan.length.passes_after(run.step)
    return {} if passes is None else {"data": f"{lengths.of_passes(passes)} over them"}


# -- before and after ------------------------------------------------------------------------------


def numbers(workdir: pathlib.Path, evaluation, *, step: int) -> dict[str, float]:
    """Compute the evaluation metrics of one step, from the scores of single examples.

    They are those of metrics.jsonl, of which rows may be lost.
    """
    arrays, found = np.load(Artifacts(workdir).scores(step)), {}
    for label, evaluator in evaluation.evaluators.items():
        if own := _of(arrays, label):
            found |= {f"eval/{label}/{k}": v for k, v in evaluator.summary(own).items()}
    return found


def logged(workdir: pathlib.Path, step: int) -> dict[str, float]:
    """Read the evaluation metrics of one step from the log; nothing where the row is lost."""
    log = Artifacts(workdir).metrics
    rows = writers.read(log) if log.is_file() else []
    own = [row for row in rows if row["step"] == step]
    return {k: v for row in own for k, v in row.items() if k.startswith("eval/")}


def curves(workdir: pathlib.Path, stated: tables.Stated) -> list[dict]:
    """Read the metrics worth a curve: training's own, and what the table shows."""
    is_shown = lambda name: name in ("step", *CURVES) or tables.is_shown(name, stated)
    rows = writers.read(Artifacts(workdir).metrics)
    return [{name: value for name, value in row.items() if is_shown(name)} for row in rows]


def table(workdir: pathlib.Path, evaluation, *, name: str) -> tables.Table:
    """Compare the first and the last evaluation of a run."""
    steps = Artifacts(workdir).evaluated()
    if not steps:
        return tables.table({}, groups={})
    of = lambda step: numbers(workdir, evaluation, step=step)
    runs = {"before": of(steps[0]), name: of(steps[-1])}
    changes, bounds = intervals(workdir, evaluation)
    of_changes, of_values = {name: changes}, {"before": bounds[0], name: bounds[1]}
    beside = dict(intervals=of_changes, bounds=of_values, stated=evaluation.stated)
    return tables.table(runs, groups=evaluation.groups, **beside)


def intervals(workdir: pathlib.Path, evaluation) -> tuple[dict, tuple[dict, dict]]:
    """Bootstrap every metric from the scores of single examples: changes, (before, after).

    An evaluation that was added later, or that has other examples now, has no interval.
    """
    steps = Artifacts(workdir).evaluated()
    first, last = (np.load(Artifacts(workdir).scores(step)) for step in (steps[0], steps[-1]))
    changes, bounds = {}, ({}, {})
    for label, evaluator in evaluation.evaluators.items():
        before, after = _of(first, label), _of(last, label)
        # A paired interval needs the same examples on both sides.
        if not before or _sizes(before) != _sizes(after):
            continue
        for metric, each in bootstrap.paired(evaluator.summary, before, after).items():
            name = f"eval/{label}/{metric}"
            changes[name] = each.change.low, each.change.high
            for side, own in zip(bounds, (each.before, each.after), strict=True):
                side[name] = own.low, own.high
    return changes, bounds


def _sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: len(values) for name, values in arrays.items()}


def _of(arrays: Mapping, label: str) -> dict[str, np.ndarray]:
    prefix = f"{label}/"
    return {k.removeprefix(prefix): arrays[k] for k in arrays if k.startswith(prefix)}


def record(workdir: pathlib.Path, settings: Settings, *, step: int) -> Record:
    """Read what a run says of its weights at `step`; changes have no intervals."""
    own = Artifacts(workdir)
    data = files.read_json(own.summary).get("data", {}) if own.summary.is_file() else {}
    first = own.evaluated()[:1]
    runs = {"before": logged(workdir, first[0])} if first else {}
    if found := logged(workdir, step):
        runs[f"step {step}"] = found
    groups = {label: spec.get("group", "old") for label, spec in settings.evals.items()}
    stated = stated_metrics.stated(settings.evals)
    learned = tables.table(runs, groups=groups, stated=stated) if len(runs) == 2 else None
    return Record(step, data, learned)
