"""The report of a study: methods at a matched score, fronts, and what became of every task.

write(folder / "report.html", title="forgetting", report=numbers, config=study)

`report` is what `studies.numbers.compute` returns, as report.json holds it.
"""

import os
import pathlib
from collections.abc import Mapping

from ftjax.core import files
from ftjax.report import curves, page

# In the order of the columns; what is a fall is better when it is less.
MEASURES = {
    "avg_accuracy": "ACC", "learning_accuracy": "LA", "bwt": "BWT", "zero_shot_fwt": "FWT",
    "forgetting": "forgetting", "intransigence": "intransigence",
}  # fmt: skip


def write(
    path: os.PathLike | str, *, title: str, report: Mapping, config: Mapping
) -> pathlib.Path:  # fmt: skip
    """Write the page to `path` and return it."""
    figures = {
        "learned against forgotten, a point a rate": _front(report),
        "forgetting at the match over the learning rate": _sweep(report),
    }
    maps = {name: own for name in report["methods"] if (own := _map(report, name))}
    heads = [own["rates"] for own in report["methods"].values()]
    known = [key for key in MEASURES if any(key in r["measures"] for h in heads
                                            for r in h.values())]  # fmt: skip
    found = dict(
        report=report,
        figures=figures,
        maps=maps,
        estimate=estimate,
        measures={key: MEASURES[key] for key in known},
    )
    text = page.render("study.html", title=title, facts=_facts(report), config=config, **found)
    return files.write_text(path, text)


def _facts(report: Mapping) -> dict[str, object]:
    cells, match = report["cells"], report["match"]
    diverged = sum(cell["status"] == "diverged" for cell in cells)
    return {
        "methods": len(report["methods"]),
        "cells": f"{len(cells)}" + (f", {diverged} diverged" if diverged else ""),
        "compared at": f"{match['fraction']:.0%} of what can be learned",
        "metric": match["metric"],
        "tasks": ", ".join(report["tasks"]),
        "probes": ", ".join(report["probes"]) or "none",
    }


def estimate(found: Mapping | None) -> str:
    """Write a value with its interval."""
    if not found:
        return "n/a"
    if found["n"] == 1:
        return f"{found['value']:.3f} (one run)"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _front(report: Mapping) -> str:
    """Draw gain against forgetting of every rate, means over seeds and orders."""
    series = {}
    for name, own in report["methods"].items():
        points = []
        for rate in own["rates"]:
            cells = [c for c in report["cells"] if c["method"] == name and not c["joint"]
                     and f"{c['rate']:g}" == rate and c["gain"] is not None]  # fmt: skip
            if cells:
                mean = lambda key, cells=cells: sum(c[key] for c in cells) / len(cells)
                points.append((mean("gain"), mean("forgetting")))
        series[name] = points

    def draw(axes) -> None:
        _lines(axes, series)
        axes.axvline(report["match"]["fraction"], color=curves.INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel("gain right after learning (1 = the top)")
        axes.set_ylabel("forgetting at the end")

    return curves.drawn("front", draw)


def _sweep(report: Mapping) -> str:
    """Draw forgetting at the match over the rates that reached it."""
    series = {
        name: [
            (float(rate), one["forgetting_at_match"]["value"])
            for rate, one in own["rates"].items()
            if one["forgetting_at_match"]
        ]
        for name, own in report["methods"].items()
    }

    def draw(axes) -> None:
        _lines(axes, series)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("forgetting at the match")

    return curves.drawn("sweep", draw)


def _lines(axes, series: Mapping[str, list]) -> None:
    for n, (name, points) in enumerate(series.items()):
        x, y = zip(*points, strict=True) if points else ((), ())
        color = curves.SERIES[n % len(curves.SERIES)]
        dashes = "-" if n < len(curves.SERIES) else "--"
        axes.plot(x, y, color=color, label=name, marker="o", markersize=3.5, linewidth=1.2,
                  linestyle=dashes)  # fmt: skip


def _map(report: Mapping, method: str) -> dict | None:
    """Return stage by evaluation of a method at its best rate: scores and how far they fell."""
    own = report["methods"][method]
    chosen = own["matched"]["rate"]
    rates = [rate for rate, one in own["rates"].items() if one["stages"]]
    if not rates:
        return None
    rate = rates[0] if chosen is None else f"{chosen:g}"
    stages = own["rates"][rate]["stages"]
    order = stages["order"]
    top = {name: task["top"] - task["base"] for name, task in report["tasks"].items()}
    wide = max(top.values())
    rows = []
    for n, stage in enumerate(["base", *order]):
        cells = []
        for name, values in stages["scores"].items():
            change = values[n] - values[0]
            share = max(-1.0, min(1.0, change / top.get(name, wide)))
            cells.append({"value": values[n], "change": change, "share": share,
                          "own": name == stage})  # fmt: skip
        rows.append({"stage": stage, "cells": cells})
    return {"rate": rate, "columns": list(stages["scores"]), "rows": rows}
