"""What predicts forgetting: the drift of a model from its base, over the cells of a study.

A point is a cell after its first stage, which starts from the base: how far its next-token
distributions are from the base's on the new task's rows and on old ones, how far its weights and
its hidden states on old rows are, and how far the probes fell. arXiv:2509.04259 finds forgetting to
follow the forward divergence on new rows; of methods that train on old data too there is no reason
why it should, so that these are fitted with and without.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ftjax.evals.lib import fit
from ftjax.studies.outcomes import CellScores, Scores, score
from ftjax.studies.study import Study

PREDICTORS = (
    "kl_forward_new", "kl_reverse_new", "tv_new", "kl_forward_old", "relative_norm", "cka_old",
    "procrustes_old",
)  # fmt: skip


def compute(study: Study, base: Scores, found: Sequence[CellScores]) -> dict[str, Any] | None:
    """Compute points and fits for JSON; None where changes were not measured, or of no probes."""
    measured = [one for one in found if one.changes and not one.cell.is_joint]
    if not (study.changes and study.probes and measured):
        return None
    points = [_point(study, base, one) for one in measured]
    blind = [point for point in points if point["method"] not in study.sees_old]
    return {
        "points": points,
        "fits": {"all": _fits(points), "without_old_data": _fits(blind)},
    }


def _point(study: Study, base: Scores, one: CellScores) -> dict[str, Any]:
    cell, metric, change = one.cell, study.match.metric, one.changes[0]
    fell = [score(base, p, metric) - score(one.after[0], p, metric) for p in study.probes]
    found = {"cell": cell.label, "method": cell.method, "rate": cell.rate, "seed": cell.seed}
    found["forgetting"] = float(np.mean(fell))
    of_owner = lambda kind, owner: [
        own for label, own in change[kind].items() if study.owners.get(label) == owner
    ]
    if "drift" in change:
        of = lambda owner: of_owner("drift", owner)
        for name in ("kl_forward", "kl_reverse", "tv"):
            found |= _mean(f"{name}_new", [own[name] for own in of(cell.tasks[0])])
        found |= _mean("kl_forward_old", [own["kl_forward"] for own in of(None)])
    if spectrum := change.get("spectrum"):
        found["relative_norm"] = spectrum["relative_norm"]
    for name in ("cka", "procrustes") if "states" in change else ():
        found |= _mean(f"{name}_old", [own[name] for own in of_owner("states", None)])
    return found


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: float(np.mean(values))} if values else {}


def _fits(points: Sequence[Mapping]) -> dict[str, dict]:
    """Fit forgetting on every predictor that all points have."""
    found = {}
    for name in PREDICTORS:
        if points and all(name in point for point in points):
            pairs = [(point[name], point["forgetting"]) for point in points]
            if made := fit.quadratic(*zip(*pairs, strict=True)):
                found[name] = made._asdict()
    return found
