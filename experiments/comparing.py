"""A run's evaluations on its base and on a checkpoint, example by example.

    compare(evaluation, base, params)  ->  Comparison(before, after, estimates)

The same examples are scored twice, so every change has a paired confidence interval.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ftjax.evals import bootstrap, retention

KEPT = ("accuracy", "exact_match")  # scores with a known chance level


class Comparison(NamedTuple):
    """Metrics by "<label>/<metric>", and an interval for each change."""

    before: dict[str, float]
    after: dict[str, float]
    estimates: dict[str, bootstrap.Estimate]


def compare(evaluators: Mapping, base, params) -> Comparison:
    """Run every evaluator on both params."""
    result = Comparison({}, {}, {})
    for label, evaluator in evaluators.items():
        arrays = evaluator.examples(base), evaluator.examples(params)
        estimates = bootstrap.differences(evaluator.summary, *arrays)
        before, after = map(evaluator.summary, arrays)
        for target, found in zip(result, (before, after, estimates), strict=True):
            target.update({f"{label}/{name}": value for name, value in found.items()})
    return result


def rows(comparison: Comparison, groups: Mapping[str, str], group: str) -> list[retention.Row]:
    """List the learned/forgotten rows of the labels of one group."""
    mine = {
        name: value
        for name, value in comparison.before.items()
        if groups[name.rsplit("/", 1)[0]] == group
        and name.rsplit("/", 1)[1] in retention.DIRECTIONS
    }
    return retention.rows(mine, comparison.after, estimates=comparison.estimates)


def kept(comparison: Comparison, groups: Mapping[str, str]) -> float | None:
    """Compute the retention over the old benchmarks that the base is above chance on, or None."""
    before, after, chance = {}, {}, {}
    for name, value in comparison.before.items():
        label, metric = name.rsplit("/", 1)
        floor = comparison.before.get(f"{label}/chance", 0.0)
        if groups[label] == "old" and metric in KEPT and value > floor:
            before[name], after[name], chance[name] = value, comparison.after[name], floor
    return retention.retention(before, after, chance) if before else None


def text(comparison: Comparison, groups: Mapping[str, str], *, step: int) -> str:
    """Lay the comparison out as Markdown."""
    parts = [f"# Base (before) and step {step} (after)"]
    for group, title in (("new", "What the run teaches"), ("old", "What it must not forget")):
        if found := rows(comparison, groups, group):
            parts.append(f"## {title}\n\n{retention.table(found)}")
    share = kept(comparison, groups)
    if share is not None:
        parts.append(f"Retention, 1 = everything above chance kept: {share:.3f}")
    return "\n\n".join(parts)


def record(comparison: Comparison, groups: Mapping[str, str], *, step: int) -> dict:
    """Put the comparison into what JSON can hold."""
    return {
        "step": step,
        "before": comparison.before,
        "after": comparison.after,
        "change": {name: each._asdict() for name, each in comparison.estimates.items()},
        "rows": [
            row._asdict() for group in ("new", "old") for row in rows(comparison, groups, group)
        ],
        "retention": kept(comparison, groups),
    }
