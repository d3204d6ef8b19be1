"""The page of a decision: verdicts, arms, figures, and answers side by side.

files.write_text(workdir / "report.html", page(record, "my task"))
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ftjax.decide import arm_table, arms, prices
from ftjax.decide.break_even import Line
from ftjax.evals.lib import front
from ftjax.report import curves
from ftjax.report import page as report

ASIDE = 8  # points, of a name that has moved: its line to the point is seen
STYLES = ("-", "--")  # of lines beyond the page's five colours


def page(record: Mapping[str, Any], title: str) -> str:
    """Write the page of what decide.json holds."""
    return report.render(
        "decision.html",
        title=title,
        needs={need: _need(record, need) for need in record["needs"]},
        old=arm_table.forgotten(record),
        said=arm_table.literature(record),
        rules=arm_table.rules(record),
        config=record["config"],
    )


def _need(record: Mapping, need: str) -> dict:
    own = record["needs"][need]
    head, *rows = arm_table.rows(record, need)
    return {
        "text": own["text"], "resolved": own["resolved"], "head": head, "rows": rows,
        "notes": arm_table.notes(own), "plots": plots(record, need),
        "shown": shown(record, need),
    }  # fmt: skip


def shown(record: Mapping, need: str) -> list[dict]:
    """Collect the first questions of a need with every arm's answer and what it cites."""
    places = [i for i, item in enumerate(record["items"]) if item["need"] == need]
    done = {label: arm for label, arm in record["arms"].items() if "error" not in arm}
    found = []
    for i in places[: record["config"].get("shown", 20)]:
        answers = [
            {
                "arm": label, "text": arm["answers"][0][i], "right": arm["scores"][0][i] == 1,
                "cited": [each["id"] for each in arm["cited"][i]] if arm["cited"] else [],
            }
            for label, arm in done.items()
        ]  # fmt: skip
        item = record["items"][i]
        found.append({"prompt": item["prompt"], "wanted": item["answers"], "answers": answers})
    return found


# -- figures ---------------------------------------------------------------------------------------


def plots(record: Mapping, need: str) -> dict[str, str]:
    """Draw scores against the cost of queries and old abilities, and costs against queries."""
    own = record["needs"][need]
    quality = {label: each["value"] for label, each in own["scores"].items()}
    a_thousand = {label: 1000 * _line(record, need, label).per_query for label in quality}
    free = _free(record, need)
    unit = prices.make(**record["prices"]).unit
    found = {
        f"score against the cost of 1,000 queries ({unit})": (
            lambda axes: _points(axes, a_thousand, quality, free, "cost of 1,000 queries")
        ),
        f"cost against queries ({unit})": lambda axes: _lines(axes, record, need),
    }
    if record["forgetting"]:
        kept = {
            label: float(np.mean([each["change"] for each in probes.values()]))
            for label, probes in record["forgetting"].items()
        }
        found["score against old abilities"] = lambda axes: _points(
            axes, kept, quality, free, "mean change of old abilities", is_cost=False
        )
    return {name: curves.drawn(f"{need} {name}", draw) for name, draw in found.items()}


def _free(record: Mapping, need: str) -> list[str]:
    """Return the arms that can be used: all but the ceiling."""
    labels = record["needs"][need]["costs"]
    return [each for each in labels if not arms.ARMS[record["arms"][each]["name"]].is_ceiling]


def _line(record: Mapping, need: str, label: str) -> Line:
    cost = prices.Cost(**record["needs"][need]["costs"][label])
    return prices.line(cost, prices.make(**record["prices"]))


def _points(
    axes, x: Mapping, y: Mapping, free: Sequence[str], label: str, *, is_cost: bool = True
) -> Callable[[], bool]:  # fmt: skip
    """Mark every arm by name; the front of the `free` ones, cheap or kept and good, is a line."""
    names = []
    for n, arm in enumerate(x):
        color = curves.SERIES[n % len(curves.SERIES)]
        axes.plot(x[arm], y[arm], "o", color=color, markersize=5)
        names.append((_named(axes, arm, x[arm], y[arm], up=3), color))
    sign = -1 if is_cost else 1
    best = [free[i] for i in front.front([(sign * x[arm], y[arm]) for arm in free])]
    order = sorted(best, key=lambda arm: x[arm])
    axes.plot(
        [x[a] for a in order], [y[a] for a in order], color=curves.LINE, linewidth=1, zorder=0
    )
    axes.locator_params(axis="x", nbins=4)
    axes.margins(0.25)
    axes.set_xlabel(label)
    axes.set_ylabel("score")
    names.sort(key=lambda own: own[0].xy[1])
    return lambda: _spread(axes, names, up=7)


def _named(axes, text: str, x: float, y: float, *, up: int):
    return axes.annotate(
        text, (x, y), xytext=(4, up), textcoords="offset points", color=curves.INK, fontsize=7
    )


def _spread(axes, names: Sequence, *, up: int) -> bool:
    """Move names that lie over others, in this order, up or down until they do not.

    Returns whether any moved.

    names: (name, colour of its point); a line leads from a name that has moved to its point.
    """
    placed: list = []
    moved = False
    for name, color in names:
        begin = name.xyann
        for moves in range(1, len(names) + 1):
            box = name.get_window_extent()
            if not any(box.overlaps(other) for other in placed):
                break
            name.xyann = (begin[0] + ASIDE, begin[1] + moves * up)
        placed.append(name.get_window_extent())
        if name.xyann != begin:
            moved = True
            axes.annotate(
                "", name.xy, name.xyann, textcoords="offset points",
                arrowprops=dict(arrowstyle="-", color=color, linewidth=0.7, shrinkA=0, shrinkB=2),
            )  # fmt: skip
    return moved


def _lines(axes, record: Mapping, need: str) -> Callable[[], bool]:
    """Draw whole costs over numbers of queries, from one to a thousand times those asked for.

    Of the arms that may be taken: those that are worse than the best do not compete.
    """
    queries = np.geomspace(1, max(1e3, 1e3 * record["prices"]["queries"]), 60)
    for n, label in enumerate(record["needs"][need]["candidates"]):
        line, colors = _line(record, need, label), len(curves.SERIES)
        axes.plot(
            queries, line.fixed + queries * line.per_query, STYLES[n // colors % len(STYLES)],
            color=curves.SERIES[n % colors], label=label, linewidth=1.3,
        )  # fmt: skip
    names = _crossings(axes, record, need, queries)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("queries")
    # Below, where it covers no line.
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, fontsize=7, frameon=False,
        labelcolor=curves.INK,
    )  # fmt: skip
    return lambda: _spread(axes, [(name, curves.INK) for name in names], up=-8)


def _crossings(axes, record: Mapping, need: str, queries) -> list:
    """Mark where the chosen arm and another one that may be taken cost the same."""
    own, names = record["needs"][need], []
    chosen = _line(record, need, own["chosen"])
    for label in own["candidates"]:
        at = own["break_even"].get(label, {}).get("queries")
        if at and queries[0] <= at <= queries[-1]:
            axes.plot(at, chosen.at(at), "o", color=curves.INK, markersize=4)
            names.append(_named(axes, f"{at:,.0f}", at, chosen.at(at), up=-10))
    return names
