"""The report of a study: methods at a matched score, fronts, and what became of every task.

write(folder / "report.html", title="forgetting", report=numbers, config=study)

`report` is what `studies.numbers.compute` returns, as report.json holds it.
"""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence

from ftjax.core import files
from ftjax.report import page, study_figures

# In the order of the columns; what is a fall is better when it is less.
MEASURES = {
    "avg_accuracy": "ACC", "learning_accuracy": "LA", "bwt": "BWT", "zero_shot_fwt": "FWT",
    "forgetting": "forgetting", "intransigence": "intransigence",
}  # fmt: skip
# In words, of `studies.predictors`.
PREDICTORS = {
    "kl_forward_new": "KL(base, model) on the new task", "kl_reverse_new": "KL(model, base) there",
    "tv_new": "total variation there", "kl_forward_old": "KL(base, model) on old texts",
    "relative_norm": "relative norm of the change of weights",
    "cka_old": "CKA of hidden states on old texts",
    "procrustes_old": "Procrustes residual of hidden states on old texts",
}  # fmt: skip


def write(
    path: os.PathLike | str, *, title: str, report: Mapping, config: Mapping
) -> pathlib.Path:  # fmt: skip
    """Write the page to `path` and return it."""
    shown = {name: own for name in report["methods"] if (own := _stages(report, name))}
    scale = _scale(report, [scores for _, _, scores in shown.values()])
    maps = {name: _map(*own, scale) for name, own in shown.items()}
    heads = [own["rates"] for own in report["methods"].values()]
    known = [key for key in MEASURES if any(key in r["measures"] for h in heads
                                            for r in h.values())]  # fmt: skip
    found = dict(
        report=report,
        figures=study_figures.draw(report),
        metric_is_nats=report["match"]["metric"] == "nll",
        predictors=PREDICTORS,
        spectra=_spectra(report),
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
    } | ({"left out, at chance": _at_chance(report)} if report["left_out"] else {})


def _at_chance(report: Mapping) -> str:
    return "; ".join(f"{label} ({text})" for label, text in report["left_out"].items())


def estimate(found: Mapping | None) -> str:
    """Write a value with its interval."""
    if not found:
        return "n/a"
    if found["n"] == 1:
        return f"{found['value']:.3f} (one run)"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _spectra(report: Mapping) -> list[dict]:
    """Return a row for every method and rate whose models were compared with the base's weights."""
    rows = []
    for name, own in report["methods"].items():
        for rate in own["rates"]:
            found = [
                [change["spectrum"] for change in cell["changes"]]
                for cell in report["cells"]
                if cell["method"] == name and f"{cell['rate']:g}" == rate and not cell["joint"]
                and cell["status"] == "done" and cell["changes"]
                and "spectrum" in cell["changes"][-1]
            ]  # fmt: skip
            if found:
                mean = lambda key, at, found=found: sum(x[at][key] for x in found) / len(found)
                rows.append({
                    "method": name, "rate": rate, "first": mean("intruders", 0),
                    "last": mean("intruders", -1), "threshold": found[0][-1]["threshold"],
                    **{key: mean(key, -1) for key in ("rank", "effective_rank", "relative_norm")},
                })  # fmt: skip
    return rows


def _stages(report: Mapping, method: str) -> tuple[str, list[str], Mapping] | None:
    """Return rate, order and scores by evaluation after every stage, at a method's best rate."""
    own = report["methods"][method]
    chosen = own["matched"]["rate"]
    rates = [rate for rate, one in own["rates"].items() if one["stages"]]
    if not rates:
        return None
    rate = rates[0] if chosen is None else f"{chosen:g}"
    stages = own["rates"][rate]["stages"]
    return rate, stages["order"], stages["scores"]


def _scale(report: Mapping, every: Sequence[Mapping]) -> dict[str, float]:
    """Return the change that has the full colour: of a task its top, of probes the largest one."""
    changes = [
        abs(value - values[0])
        for scores in every
        for name, values in scores.items()
        if name not in report["tasks"]
        for value in values
    ]
    tops = {name: task["top"] - task["base"] for name, task in report["tasks"].items()}
    largest = max(changes, default=0.0) or max(tops.values())
    return dict.fromkeys(report["probes"], largest) | tops


def _map(rate: str, order: Sequence[str], scores: Mapping, scale: Mapping[str, float]) -> dict:
    """Return stage by evaluation: scores, and how far each is from the base's."""
    rows = []
    for n, stage in enumerate(["base", *order]):
        cells = []
        for name, values in scores.items():
            share = max(-1.0, min(1.0, (values[n] - values[0]) / scale[name]))
            # A root: small falls are to be seen beside large ones.
            share = math.copysign(math.sqrt(abs(share)), share)
            cells.append({"value": values[n], "share": share, "own": name == stage})
        rows.append({"stage": stage, "cells": cells})
    return {"rate": rate, "columns": list(scores), "rows": rows}
