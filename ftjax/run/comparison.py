"""A run's evaluations on its base and on a checkpoint, example by example.

    compare(evaluation, base, params)  ->  Comparison(before, after, estimates)

The same examples are scored twice, so every change has a paired confidence interval.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ftjax.evals.lib import bootstrap, retention
from ftjax.report import table as tables

KEPT = ("accuracy", "exact_match")  # scores with a known chance level


class Comparison(NamedTuple):
    """Metrics by "<label>/<metric>", an interval for each change, and one for each value."""

    before: dict[str, float]
    after: dict[str, float]
    estimates: dict[str, bootstrap.Estimate]
    bounds: tuple[dict, dict] = ({}, {})  # before, after


def compare(evaluators: Mapping, base, params) -> Comparison:
    """Run every evaluator on both params."""
    return against(evaluators, base, [("", params)])[""]


def against(evaluators: Mapping, base, others: Iterable[tuple[Any, Any]]) -> dict:
    """Run every evaluator on the base, and on each of other params as they come, by their names."""
    first = {label: evaluator.examples(base) for label, evaluator in evaluators.items()}
    return {name: _compared(evaluators, first, params) for name, params in others}


def _compared(evaluators: Mapping, first: Mapping, params) -> Comparison:
    result = Comparison({}, {}, {}, ({}, {}))
    for label, evaluator in evaluators.items():
        arrays = first[label], evaluator.examples(params)
        for metric, each in bootstrap.paired(evaluator.summary, *arrays).items():
            name, sides = f"{label}/{metric}", (each.before, each.after)
            result.before[name], result.after[name] = (side.value for side in sides)
            result.estimates[name] = each.change
            for known, side in zip(result.bounds, sides, strict=True):
                known[name] = side.low, side.high
    return result


def kept(comparison: Comparison, groups: Mapping[str, str]) -> float | None:
    """Compute the retention over the old benchmarks that the base is above chance on, or None."""
    before, after, chance = {}, {}, {}
    for name, value in comparison.before.items():
        label, metric = name.rsplit("/", 1)
        floor = comparison.before.get(f"{label}/chance", 0.0)
        # At chance there is nothing to lose, and the share kept of it would be noise.
        if groups[label] == "old" and metric in KEPT and value > floor:
            before[name], after[name], chance[name] = value, comparison.after[name], floor
    return retention.retention(before, after, chance) if before else None


def table(
    comparison: Comparison, groups: Mapping[str, str], *, step: int,
    stated: tables.Stated | None = None,
) -> tables.Table:  # fmt: skip
    """Lay the comparison out as training does at its end; stated: see `tables.table`."""
    return side_by_side({f"step {step}": comparison}, groups, stated=stated)


def side_by_side(
    found: Mapping[str, Comparison], groups: Mapping[str, str], *,
    stated: tables.Stated | None = None,
) -> tables.Table:  # fmt: skip
    """Lay comparisons with one base out, a column each."""
    named = lambda metrics: {f"eval/{key}": value for key, value in metrics.items()}
    bounds = lambda one: {key: (e.low, e.high) for key, e in one.estimates.items()}
    first = next(iter(found.values()))
    runs = {"base": named(first.before)} | {name: named(one.after) for name, one in found.items()}
    intervals = {name: named(bounds(one)) for name, one in found.items()}
    of_values = {"base": named(first.bounds[0])}
    of_values |= {name: named(one.bounds[1]) for name, one in found.items()}
    beside = dict(intervals=intervals, bounds=of_values, stated=stated)
    return tables.table(runs, groups=groups, **beside)


def text(comparison: Comparison, groups: Mapping[str, str], **options) -> str:
    """Write the table, and below it the retention; options: those of `table`."""
    share = kept(comparison, groups)
    shown = "" if share is None else f"\n\nretention {share:.3f} (1 = all above chance is kept)"
    return tables.table_text(table(comparison, groups, **options)) + shown


def record(comparison: Comparison, groups: Mapping[str, str], *, step: int, **options) -> dict:
    """Put the comparison into what JSON can hold."""
    rows = table(comparison, groups, step=step, **options).rows
    return {
        "step": step,
        "before": comparison.before,
        "after": comparison.after,
        "change": {name: each._asdict() for name, each in comparison.estimates.items()},
        "verdicts": {f"{row.label}/{row.metric}": row.verdict(1) for row in rows},
        "retention": kept(comparison, groups),
    }
