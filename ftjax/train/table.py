"""What was learned and what was forgotten: evaluations in rows, runs in columns.

    learned = table({"before": {"eval/tsql/nll": 1.9, "eval/mmlu/accuracy": 0.31},
                     "after LoRA": {"eval/tsql/nll": 0.4, "eval/mmlu/accuracy": 0.30}},
                    groups={"tsql": "new", "mmlu": "old"})
    print(table_text(learned))

The first run is the one the others are compared with. A change counts as better or worse by the
metric's own direction: less nll is better, more accuracy is.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

LOWER_IS_BETTER = ("nll", "loss", "perplexity", "bits_per_byte", "kl", "error", "distance")
GROUPS = {"new": "Learned: the new task", "old": "Kept or forgotten: old abilities"}


class Row(NamedTuple):
    """One metric of one evaluation over all runs; None where a run lacks it."""

    label: str
    metric: str
    group: Literal["new", "old"]
    values: tuple[float | None, ...]

    def change(self, column: int) -> float | None:
        """Return the difference from the first run."""
        first, value = self.values[0], self.values[column]
        return None if first is None or value is None else value - first

    def verdict(self, column: int) -> Literal["better", "worse", "same"]:
        """Judge the change by the metric's direction; below half a unit shown it is the same."""
        change = self.change(column)
        if change is None or abs(change) < 5e-4:
            return "same"
        return "better" if (change < 0) == lower_is_better(self.metric) else "worse"


class Table(NamedTuple):
    """Runs by name, and rows grouped new before old."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def lower_is_better(metric: str) -> bool:
    """Say whether a smaller value of this metric is the better one."""
    return metric.split("/")[-1].removeprefix("mean_") in LOWER_IS_BETTER


def table(runs: Mapping[str, Mapping[str, float]], *, groups: Mapping[str, str]) -> Table:
    """Collect `eval/<label>/<metric>` of each run, the run to compare with first.

    groups: "new" or "old" for every label; metrics of labels that it does not name are left out.
    """
    for label, group in groups.items():
        if group not in GROUPS:
            raise ValueError(f"report.groups.{label}: got {group!r}; expected 'new' or 'old'")
    names = dict.fromkeys(name for metrics in runs.values() for name in metrics)
    rows = []
    for name in names:
        kind, _, rest = name.partition("/")
        label, _, metric = rest.partition("/")
        if kind == "eval" and metric and label in groups:
            values = tuple(metrics.get(name) for metrics in runs.values())
            rows.append(Row(label, metric, groups[label], values))
    rows.sort(key=lambda row: list(GROUPS).index(row.group))
    return Table(tuple(runs), tuple(rows))


def table_text(learned: Table) -> str:
    """Write the table in plain text; `+` marks better, `-` worse."""
    head = ["", "evaluation", "metric", learned.columns[0]]
    for name in learned.columns[1:]:
        head += [name, "change"]
    lines = [head, *([row.group, row.label, row.metric, *_cells(row)] for row in learned.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    align = lambda text, i: text.ljust(widths[i]) if i < 3 else text.rjust(widths[i])
    return "\n".join("  ".join(align(x, i) for i, x in enumerate(x)).rstrip() for x in lines)


def _cells(row: Row) -> list[str]:
    marks = {"better": " +", "worse": " -", "same": "  "}
    cells = [number(row.values[0])]
    for column in range(1, len(row.values)):
        cells.append(number(row.values[column]))
        cells.append(signed(row.change(column)) + marks[row.verdict(column)])
    return cells


def number(value: float | None) -> str:
    """Write a value with three decimals, n/a where there is none."""
    return "n/a" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Write a change with its sign."""
    return "n/a" if value is None else f"{value:+.3f}"
