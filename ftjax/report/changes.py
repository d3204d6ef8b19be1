"""What the table of learned and forgotten looks like: evaluations before and after, and the trade.

    figures(table)      {"nll (nats/token, less is better)": svg}, a row for each evaluation
    trades(table)       {"learned against forgotten, ...": svg}, a point for each run

Whiskers are 95 % intervals. A point of a trade is the mean gain of the new evaluations against the
mean fall of the old ones, each evaluation counted once, by its first metric of one unit; means of
independent evaluations have intervals whose sides add in quadrature.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ftjax.report import curves
from ftjax.report.table import SHOWN, Row, Table

ROW = 0.3  # inches of a row of marks
BESIDE = 1.0  # and of what is above and below them


class Mean(NamedTuple):
    """A mean change over evaluations, and its interval."""

    value: float
    low: float
    high: float


def figures(table: Table) -> dict[str, str]:
    """Draw each metric: a row for every evaluation, its value before and that of each run."""
    found: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.values[0] is not None:
            found.setdefault(heading(row), []).append(row)
    return {title: _figure(title, table.columns, rows) for title, rows in found.items()}


def heading(row: Row) -> str:
    """Name a metric with its unit and direction."""
    better = "more is better" if row.direction > 0 else "less is better"
    return f"{row.metric} ({', '.join(filter(None, [row.unit, better]))})"


def _figure(title: str, columns: Sequence[str], rows: Sequence[Row]) -> str:
    runs = range(1, len(columns))
    height = BESIDE + ROW * len(rows) * max(1.0, 0.6 * len(runs))
    return curves.drawn(title, lambda axes: _marks(axes, columns, rows), height=height)


def _marks(axes, columns: Sequence[str], rows: Sequence[Row]) -> Callable | None:
    runs, names = range(1, len(columns)), []
    for n, row in enumerate(rows):
        before = row.values[0]
        for run in runs:
            # Runs stand below each other within the row of an evaluation.
            y, color = n + 0.6 * (run / (len(columns)) - 0.5), curves.SERIES[(run - 1) % 5]
            if row.values[run] is None:
                continue
            axes.plot([before, row.values[run]], [y, y], color=color, linewidth=1.2, alpha=0.45)
            _mark(axes, row, run, y, color)
            if n == 0 and len(runs) > 1:
                offset = (8, 7 if 2 * run < len(columns) else -7)
                names.append(_name(axes, columns[run], row.values[run], y, color, offset=offset))
        _mark(axes, row, 0, n, curves.SOFT)
    if len(runs) == 1:
        _name_both(axes, columns, rows[0])
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.9)  # the first on top
    axes.margins(x=0.08)
    return (lambda: curves.spread(names)) if len(names) > 1 else None


def _mark(axes, row: Row, column: int, y: float, color: str) -> None:
    value, bound = row.values[column], row.bound(column)
    if bound is not None:
        axes.plot(bound, [y, y], color=color, linewidth=2.6, alpha=0.3, solid_capstyle="butt")
    face = "none" if column == 0 else color
    axes.plot([value], [y], "o", markersize=5, color=color, markerfacecolor=face)


def _name_both(axes, columns: Sequence[str], row: Row) -> None:
    """Write before and after above the marks of the first row, to their outer sides."""
    if None in row.values:
        return
    first, last = row.values
    for name, x, color in ((columns[0], first, curves.SOFT), (columns[1], last, curves.SERIES[0])):
        side = "right" if x < max(first, last) or (first == last and x is first) else "left"
        _name(axes, name, x, -0.45, color, offset=(4 if side == "right" else -4, 0), side=side)


def _name(axes, name: str, x: float, y: float, color: str, *, offset=(8, 7), side: str = "left"):
    return axes.annotate(
        name, (x, y), xytext=offset, textcoords="offset points", color=color, ha=side, va="center",
        fontsize=8, annotation_clip=False,
    )  # fmt: skip


# -- the trade -------------------------------------------------------------------------------------


def trades(table: Table) -> dict[str, str]:
    """Draw what each run learned against what it forgot, a figure for every unit of the latter.

    Nothing for a single run, which the table shows as well.
    """
    if len(table.columns) < 3:
        return {}
    new = _chosen(table, "new")
    gained = next((new[unit] for unit in ("share", "nats/token") if unit in new), None)
    if gained is None:
        return {}
    return {
        f"learned against forgotten ({unit})": _trade(table, gained, lost)
        for unit, lost in sorted(_chosen(table, "old").items(), reverse=True)
    }


def _chosen(table: Table, group: str) -> dict[str, list[Row]]:
    """Return, by unit, the rows of a group that are averaged: one metric for each evaluation."""
    found: dict[str, dict[str, Row]] = {}
    place = lambda row: SHOWN.index(row.metric) if row.metric in SHOWN else len(SHOWN)
    for row in sorted(table.rows, key=place):
        if row.group == group and row.unit in ("share", "nats/token") and None not in row.values:
            found.setdefault(row.unit, {}).setdefault(row.label, row)
    return {unit: list(own.values()) for unit, own in found.items()}


def mean_gain(rows: Sequence[Row], column: int) -> Mean:
    """Average how much better a run is than what it started from; less than 0 is worse."""
    gains = [row.direction * row.change(column) for row in rows]
    below, above = [], []
    for row, gain in zip(rows, gains, strict=True):
        ends = [row.direction * end for end in row.intervals[column] or ()] or [gain]
        below.append(gain - min(ends))
        above.append(max(ends) - gain)
    value, count = sum(gains) / len(gains), len(gains)
    # Independent evaluations: the squares of their half-widths add.
    return Mean(value, value - math.hypot(*below) / count, value + math.hypot(*above) / count)


def _trade(table: Table, gained: Sequence[Row], lost: Sequence[Row]) -> str:
    points = []
    for column in range(1, len(table.columns)):
        fall = mean_gain(lost, column)
        points.append((mean_gain(gained, column), Mean(-fall.value, -fall.high, -fall.low)))
    title = f"learned against forgotten ({lost[0].unit})"
    return curves.drawn(title, lambda axes: _points(axes, table, gained, lost, points), height=3.2)


def _points(axes, table: Table, gained, lost, points) -> Callable:
    names = []
    for n, (name, (x, y)) in enumerate(zip(table.columns[1:], points, strict=True)):
        color = curves.SERIES[n % len(curves.SERIES)]
        axes.plot([x.low, x.high], [y.value] * 2, color=color, linewidth=1.2)
        axes.plot([x.value] * 2, [y.low, y.high], color=color, linewidth=1.2)
        axes.plot([x.value], [y.value], "o", color=color, markersize=6)
        names.append(_name(axes, name, x.value, y.value, color))
    axes.plot([0], [0], "o", color=curves.SOFT, markersize=5, markerfacecolor="none")
    names.append(_name(axes, table.columns[0], 0.0, 0.0, curves.SOFT))
    axes.axhline(0, color=curves.SOFT, linewidth=0.8, linestyle=":")
    listed = lambda rows: ", ".join(row.label for row in rows)
    axes.set_xlabel(_wrapped(f"learned → mean gain of {listed(gained)} ({gained[0].unit})"))
    axes.set_ylabel(_wrapped(f"forgotten → mean fall of {listed(lost)} ({lost[0].unit})", 42))
    axes.margins(0.15)
    return lambda: curves.spread(names)


def _wrapped(text: str, width: int = 60) -> str:
    import textwrap

    return textwrap.fill(text, width)
