"""What was learned and what was forgotten: evaluations in rows, runs in columns.

    learned = table({"before": {"eval/tsql/nll": 1.9, "eval/mmlu/accuracy": 0.31},
                     "after LoRA": {"eval/tsql/nll": 0.4, "eval/mmlu/accuracy": 0.30}},
                    groups={"tsql": "new", "mmlu": "old"})
    print(table_text(learned))

The first run is the one the others are compared with, and both values and changes may have
intervals. A change counts as better or worse by the
metric's own direction: less nll is better, more accuracy is. Where the evaluations of single
examples give an interval for a change, one that holds 0 is called the same.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ftjax.evals.lib import retention

# The metrics of an evaluation that a reader looks at first; all are in metrics.jsonl.
SHOWN = (
    "nll", "bits_per_byte", "accuracy", "exact_match", "f1", "reward", "reward_margin",
    "kl_forward", "top1_agreement",
)  # fmt: skip
# What a metric is measured in, and whether more of it is better; "" is a plain number.
UNITS = {
    "nll": "nats/token", "bits_per_byte": "bits/byte", "accuracy": "share", "exact_match": "share",
    "f1": "share", "kl_forward": "nats/token", "top1_agreement": "share",
}  # fmt: skip
Interval = tuple[float, float]
Stated = Mapping[str, Mapping[str, "Metric"]]  # metrics by label and name
GROUPS = {
    "new": "Learned: the new task",
    "old": "Kept or forgotten: old abilities",
    "later": "To come: what a later stage teaches",
}


class Metric(NamedTuple):
    """What is known of a metric: 1 where more is better, -1 where less is; what it is measured in.

    Those of evaluators of one's own are stated by their modules.
    """

    direction: int
    unit: str = ""


class Row(NamedTuple):
    """One metric of one evaluation over all runs; None where a run lacks it."""

    label: str
    metric: str
    group: Literal["new", "old", "later"]
    values: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]  # of the change from the first run
    bounds: tuple[Interval | None, ...] = ()  # of the values
    stated: Metric | None = None  # by the evaluator's module

    @property
    def unit(self) -> str:
        """What it is measured in, "" of a plain number."""
        return self.stated.unit if self.stated else UNITS.get(self.metric, "")

    @property
    def direction(self) -> int:
        """1 where more is better, -1 where less is."""
        return self.stated.direction if self.stated else retention.direction(self.metric)

    def change(self, column: int) -> float | None:
        """Return the difference from the first run."""
        first, value = self.values[0], self.values[column]
        return None if first is None or value is None else value - first

    def bound(self, column: int) -> Interval | None:
        """Return the interval of a value."""
        return self.bounds[column] if self.bounds else None

    def verdict(self, column: int) -> Literal["better", "worse", "same"]:
        """Judge the change by the metric's direction; within noise or rounding it is the same."""
        change, interval = self.change(column), self.intervals[column]
        within_noise = interval is not None and interval[0] <= 0 <= interval[1]
        if change is None or abs(change) < 5e-4 or within_noise:
            return "same"
        return "better" if change * self.direction > 0 else "worse"


class Table(NamedTuple):
    """Runs by name, and rows grouped new before old."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def is_shown(name: str, stated: Stated | None = None) -> bool:
    """Return whether a reader looks first at `eval/<label>/<metric>`."""
    kind, _, rest = name.partition("/")
    label, _, metric = rest.partition("/")
    known = metric.rsplit("/", 1)[-1] in SHOWN or metric in (stated or {}).get(label, {})
    return kind == "eval" and known


def table(
    runs: Mapping[str, Mapping[str, float]],
    *,
    groups: Mapping[str, str],
    intervals: Mapping[str, Mapping[str, Interval]] | None = None,
    bounds: Mapping[str, Mapping[str, Interval]] | None = None,
    stated: Stated | None = None,
) -> Table:
    """Collect `eval/<label>/<metric>` of each run, the run to compare with first.

    groups: "new", "old" or "later" for every label; metrics of labels that it does not name are
      left out.
    stated: metrics that are shown beside SHOWN, see `Metric`.
    intervals: by run and metric, of its change from the first run. bounds: of the values.
    """
    for label, group in groups.items():
        if group not in GROUPS:
            raise ValueError(
                f"report.groups.{label}: got {group!r}; expected one of {', '.join(GROUPS)}"
            )
    names = dict.fromkeys(name for metrics in runs.values() for name in metrics)
    rows = []
    for name in names:
        label, _, metric = name.removeprefix("eval/").partition("/")
        if is_shown(name, stated) and label in groups:
            values = tuple(metrics.get(name) for metrics in runs.values())
            found = (
                tuple((known or {}).get(run, {}).get(name) for run in runs)
                for known in (intervals, bounds)
            )
            own = (stated or {}).get(label, {}).get(metric)
            rows.append(Row(label, metric, groups[label], values, *found, own))
    rows.sort(key=lambda row: list(GROUPS).index(row.group))
    return Table(tuple(runs), tuple(rows))


def join(found: Mapping[str, Table]) -> Table:
    """Put the tables of several runs from one base side by side: before, then each run's after."""
    first = next(iter(found.values()))
    rows = []
    for row in first.rows:
        same = [_find(each, row) for each in found.values()]
        last = lambda name, same=same: tuple(own and getattr(own, name)[-1] for own in same)
        bounds = (row.bound(0), *(own and own.bound(-1) for own in same))
        values, changes = (row.values[0], *last("values")), (None, *last("intervals"))
        rows.append(row._replace(values=values, intervals=changes, bounds=bounds))
    return Table((first.columns[0], *found), tuple(rows))


def _find(learned: Table, wanted: Row) -> Row | None:
    same = (row for row in learned.rows if row[:3] == wanted[:3])
    return next(same, None)


def table_text(learned: Table) -> str:
    """Write the table in plain text; `+` marks better, `-` worse."""
    head = ["", "evaluation", "metric", learned.columns[0]]
    for name in learned.columns[1:]:
        head += [name, "change"]
    lines = [head, *([row.group, row.label, row.metric, *_cells(row)] for row in learned.rows)]
    return aligned(lines, names=3)


def aligned(lines: Sequence[Sequence[str]], *, names: int) -> str:
    """Lay cells out in columns: the first `names` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    align = lambda text, i: text.ljust(widths[i]) if i < names else text.rjust(widths[i])
    return "\n".join("  ".join(align(x, i) for i, x in enumerate(x)).rstrip() for x in lines)


def _cells(row: Row) -> list[str]:
    cells = [number(row.values[0])]
    for column in range(1, len(row.values)):
        cells += [number(row.values[column]), changed(row, column)]
    return cells


def changed(row: Row, column: int) -> str:
    """Write the change of a column with its interval and mark."""
    change = signed(row.change(column)) + interval(row.intervals[column], sign="+")
    return change + {"better": " +", "worse": " -", "same": "  "}[row.verdict(column)]


def number(value: float | None) -> str:
    """Write a value with three decimals, n/a where there is none."""
    return "n/a" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Write a change with its sign."""
    return "n/a" if value is None else f"{value:+.3f}"


def interval(found: Interval | None, *, sign: str = "") -> str:
    """Write an interval behind a value, as " [0.84, 0.95]"; nothing where there is none."""
    return "" if found is None else " [{:{s}.2f}, {:{s}.2f}]".format(*found, s=sign)
