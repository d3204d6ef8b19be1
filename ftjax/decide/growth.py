"""The same decision as a task grows: how every arm fares, and where one overtakes another.

points = {8.0: record, 16.0: record}      decide.json by the value of what grows
table(points, "facts")                    rows: a value, and every arm's score there; the head first
crossings(points, "facts")                where one arm falls behind another

Between two values a score is taken to change evenly in the logarithm of the value.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ftjax.decide import significance
from ftjax.report import curves
from ftjax.report import page as report

Points = Mapping[float, Mapping[str, Any]]


class Crossing(NamedTuple):
    """Up to `below` the `first` arm has the higher score, from `above` on the `second`.

    at: where they are equal. is_resolved: whether each is better somewhere on its side, by more
    than chance (interval and Holm's p).
    """

    first: str
    second: str
    below: float
    above: float
    at: float
    is_resolved: bool

    def __str__(self) -> str:
        """Write it in a sentence."""
        doubt = "" if self.is_resolved else ", which chance may have made"
        return (
            f"{self.first} is ahead of {self.second} up to {self.below:g} and behind it from "
            f"{self.above:g} on{doubt}; equal at about {self.at:.3g}"
        )


def needs(points: Points) -> list[str]:
    """List the needs that every record has."""
    found = [list(record["needs"]) for record in points.values()]
    return [need for need in found[0] if all(need in own for own in found)]


def arms(points: Points, need: str) -> list[str]:
    """List the arms that have a score at every value."""
    found = [list(record["needs"][need]["scores"]) for record in points.values()]
    return [arm for arm in found[0] if all(arm in own for own in found)]


def table(points: Points, need: str, *, name: str) -> list[list[str]]:
    """Lay out the scores with their intervals; name: what grows."""
    labels, rows = arms(points, need), []
    for value in sorted(points):
        own = points[value]["needs"][need]
        cells = (own["scores"][arm] for arm in labels)
        shown = [f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]" for x in cells]
        chosen = own["chosen"] if own["resolved"] else "not resolved"
        rows.append([f"{value:g}", *shown, chosen])
    return [[name, *labels, "chosen"], *rows]


def crossings(points: Points, need: str) -> list[Crossing]:
    """List where the order of two arms turns, one that is better first."""
    labels = arms(points, need)
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    return [found for pair in pairs for found in _crossings(points, need, *pair)]


def _crossings(points: Points, need: str, a: str, b: str) -> list[Crossing]:
    values = sorted(points)
    leads = [_difference(points[value], need, a, b) for value in values]
    if None in leads:
        return []
    found = []
    for n, (one, other) in enumerate(itertools.pairwise(leads)):
        if one.value * other.value >= 0:
            continue
        low, high = values[n], values[n + 1]
        at = low * (high / low) ** (one.value / (one.value - other.value))
        sign = 1 if one.value > 0 else -1
        resolved = [sign * each.value if each.is_resolved else 0 for each in leads]
        is_resolved = max(resolved[: n + 1]) > 0 and min(resolved[n + 1 :]) < 0
        first, second = (a, b) if sign > 0 else (b, a)
        found.append(Crossing(first, second, low, high, at, is_resolved))
    return found


def _difference(record: Mapping, need: str, a: str, b: str) -> significance.Difference | None:
    """Return the first less the second; None beside a ceiling, which competes with nobody."""
    for each in record["needs"][need]["differences"]:
        if {each["a"], each["b"]} == {a, b}:
            found = significance.Difference(*(each[key] for key in significance.Difference._fields))
            return found._replace(value=found.value if each["a"] == a else -found.value)
    return None


# -- the page --------------------------------------------------------------------------------------


def page(points: Points, *, name: str, title: str, links: Mapping[str, str]) -> str:
    """Write the page; links: to the page of every value, by what is shown."""
    found = {
        need: {
            "table": table(points, need, name=name),
            "crossings": [str(each) for each in crossings(points, need)],
            "plot": curves.drawn(f"{need} by {name}", _drawing(points, need, name)),
        }
        for need in needs(points)
    }
    config = next(iter(points.values()))["config"]
    return report.render("growth.html", title=title, needs=found, links=links, config=config)


def _drawing(points: Points, need: str, name: str) -> Callable:
    """Return what draws a line with intervals for every arm."""

    def draw(axes) -> Callable[[], bool]:
        values, names = sorted(points), []
        for n, arm in enumerate(arms(points, need)):
            own = [points[value]["needs"][need]["scores"][arm] for value in values]
            y, color = [each["value"] for each in own], curves.SERIES[n % len(curves.SERIES)]
            below = [each["value"] - each["low"] for each in own]
            above = [each["high"] - each["value"] for each in own]
            axes.errorbar(
                values, y, [below, above], color=color, marker="o", markersize=3, linewidth=1.4,
                elinewidth=0.7,
            )  # fmt: skip
            names.append(
                axes.annotate(
                    arm, (values[-1], y[-1]), xytext=(5, 0), textcoords="offset points",
                    color=color, va="center", annotation_clip=False,
                )
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xlabel(name)
        axes.set_ylabel("score")
        return lambda: curves.spread(names)

    return draw
