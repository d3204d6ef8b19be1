"""What a run leaves behind: exported weights, summary.json, report.html, and the table in print."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Mapping

import jax
import numpy as np

from ftjax.core import files, tree
from ftjax.evals.lib import bootstrap
from ftjax.report import page as report
from ftjax.report import summary, writers
from ftjax.report import table as tables
from ftjax.report.card import Record
from ftjax.run import export as exporting
from ftjax.run import unit
from ftjax.run.artifacts import Artifacts
from ftjax.run.config import Settings
from ftjax.train import early_stop

CURVES = ("loss", "grad_norm", "learning_rate")
ENDED = ("done", "data ended", early_stop.STOPPED)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: "done", "data ended", "SIGTERM" or "SIGINT"; and what it changed."""

    stopped: str
    table: tables.Table | None  # of a run that has ended, in the process that reports

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to train, in every process."""
        return self.stopped.startswith(ENDED)


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
    if not run.stopped.startswith(ENDED):
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
    lost = run.rows - len(writers.read(Artifacts(workdir).metrics))
    summary.write(
        Artifacts(workdir).summary, result=run, wall_s=seconds,
        bad_rows=[row.message for row in plan.loader.data.bad],
        trainable_parameters=tree.size_of(plan.state.params),
        total_parameters=plan.parts.parameters, data=plan.loader.summary(),
        passes=plan.length.passes_after(run.step),
        base_bytes=tree.bytes_of(params["model"]), lost_rows=lost,
        learned=[row._asdict() for row in learned.rows],
    )  # fmt: skip
    report.write(
        Artifacts(workdir).report, title=workdir.name, config=plan.settings.plain,
        rows=curves(workdir), samples=samples(workdir), table=learned,
        facts=facts(plan, run, seconds, lost=lost),
    )  # fmt: skip
    # Without evaluations there is no table, and an empty one would look like a failure.
    if learned.rows and not quiet:
        sys.stdout.write(tables.table_text(learned) + "\n")
    if not quiet:
        sys.stdout.write(f"report: {Artifacts(workdir).report}\n")
    reason = run.stopped if run.stopped.startswith(early_stop.STOPPED) else ""
    # Last of all: a launcher takes a job that is done for complete.
    unit.finish(Artifacts(workdir), reason=reason)
    return Outcome(run.stopped, learned)


def join(
    found: Mapping[str, tables.Table], workdir: pathlib.Path, *, failed: Mapping[str, str]
) -> None:
    """Print and report what several runs from one base, in DIR/<label>, learned and forgot.

    failed: by label, why a run has no result.
    """
    if not found:
        return
    learned, rows, shown = tables.join(found), [], []
    # One axis for all runs: their curves are there to be compared.
    for label in found:
        for row in writers.read(Artifacts(workdir / label).metrics):
            named = {f"run/{label}/{name}": row[name] for name in CURVES if name in row}
            rows.append({"step": row["step"], **named})
        shown += [
            own._replace(prompt=f"[{label}] {own.prompt}") for own in samples(workdir / label)
        ]
    ended = {f"{label} has no result": why for label, why in failed.items()}
    config = {label: files.read_json(Artifacts(workdir / label).config) for label in found}
    report.write(
        Artifacts(workdir).report, title=workdir.name, config=config, rows=rows, samples=shown,
        table=learned, facts={"runs": ", ".join(found), **ended},
    )  # fmt: skip
    lines = "".join(f"\n{name}: {why}" for name, why in ended.items())
    sys.stdout.write(
        f"\n{tables.table_text(learned)}{lines}\n\nreport: {Artifacts(workdir).report}\n"
    )


def facts(plan, run, seconds: float, *, lost: int = 0) -> dict[str, object]:
    """Collect the headline numbers of a report; `lost` rows of metrics.jsonl are gone."""
    own, whole = tree.size_of(plan.state.params), plan.parts.parameters
    return {
        "steps": f"{run.step:,}" + (f" ({run.stopped})" if run.stopped != "done" else ""),
        "data": plan.length.text(plan.loader.summary()),
        **({"gradient": f"zero since step {run.vanished}"} if run.vanished else {}),
        **({"log": f"{lost:,} of {run.rows:,} rows are lost"} if lost else {}),
        "tokens": f"{run.tokens:,}" + (f" and {run.padding:,} padding" if run.padding else ""),
        "trainable": f"{own:,} of {whole:,} parameters",
        "wall time": writers.duration(seconds),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


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


def curves(workdir: pathlib.Path) -> list[dict]:
    """Read the metrics worth a curve: training's own, and what the table shows."""
    is_shown = lambda name: (
        name in ("step", *CURVES)
        or (name.startswith("eval/") and name.rsplit("/", 1)[-1] in tables.SHOWN)
    )
    rows = writers.read(Artifacts(workdir).metrics)
    return [{name: value for name, value in row.items() if is_shown(name)} for row in rows]


def table(workdir: pathlib.Path, evaluation, *, name: str) -> tables.Table:
    """Compare the first and the last evaluation of a run."""
    steps = Artifacts(workdir).evaluated()
    if not steps:
        return tables.table({}, groups={})
    of = lambda step: numbers(workdir, evaluation, step=step)
    runs = {"before": of(steps[0]), name: of(steps[-1])}
    changes = {name: intervals(workdir, evaluation)}
    return tables.table(runs, groups=evaluation.groups, intervals=changes)


def intervals(workdir: pathlib.Path, evaluation) -> dict[str, tuple[float, float]]:
    """Bootstrap the change of every metric from the scores of single examples.

    An evaluation that was added later, or that has other examples now, has no interval.
    """
    steps = Artifacts(workdir).evaluated()
    first, last = (np.load(Artifacts(workdir).scores(step)) for step in (steps[0], steps[-1]))
    found = {}
    for label, evaluator in evaluation.evaluators.items():
        before, after = _of(first, label), _of(last, label)
        # A paired interval needs the same examples on both sides.
        if not before or _sizes(before) != _sizes(after):
            continue
        changes = bootstrap.differences(evaluator.summary, before, after)
        found |= {f"eval/{label}/{k}": (change.low, change.high) for k, change in changes.items()}
    return found


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
    learned = tables.table(runs, groups=groups) if len(runs) == 2 else None
    return Record(step, data, learned)


def samples(workdir: pathlib.Path) -> list[report.Sample]:
    """Pair the samples of the first and the last evaluation, by their prompts."""
    own = Artifacts(workdir)
    if not (steps := own.sampled()):
        return []
    read = lambda step: json.loads(own.sample(step).read_text(encoding="utf-8"))
    first, last = read(steps[0]), read(steps[-1])
    # By prompt: some may have been added when the run went on.
    before = {old["prompt"]: old["text"] for old in first}
    return [
        report.Sample(new["prompt"], before.get(new["prompt"], "(not asked)"), new["text"])
        for new in last
    ]
