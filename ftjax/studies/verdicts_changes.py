"""Verdicts on what changed inside of the models of a study: weights, distributions, hidden states.

As in `studies.verdicts`, a function takes a report and returns what the study says, or None.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ftjax.studies import verdicts
from ftjax.studies.verdicts import AGREE, DISAGREE, NOT_RESOLVED, Found

ZERO = 1e-6  # nats, of two computations of the same numbers
OLD_SHARE = 0.02  # of the new task's gain that old abilities may cost
NEARER = 0.05  # of a rank correlation, that another predictor has to be better by


def _spectra(report: Mapping, method: str, rate: float, *, stage: int) -> list[Mapping]:
    return [
        cell["changes"][stage]["spectrum"]
        for cell in report["cells"]
        if cell["method"] == method and cell["rate"] == rate and not cell["joint"]
        and cell["status"] == "done" and cell["changes"] and "spectrum" in cell["changes"][stage]
    ]  # fmt: skip


def _mean(spectra: Sequence[Mapping], key: str) -> float:
    return float(np.mean([one[key] for one in spectra])) if spectra else math.nan


def zero(report: Mapping) -> Found | None:
    """Judge whether the base against itself is without any change."""
    itself = report.get("base_against_itself")
    if not itself or "drift" not in itself or "spectrum" not in itself:
        return None
    kl = max(abs(own[k]) for own in itself["drift"].values() for k in ("kl_forward", "kl_reverse"))
    weights = [itself["spectrum"][key] for key in ("relative_norm", "rank", "intruders")]
    said = verdicts.holds(when=kl < ZERO and not any(weights), otherwise="expected 0")
    return Found(f"KL {kl:.0e}, norm, rank and intruders {max(weights):g}", *said)


def _fits(report: Mapping, group: str) -> Mapping:
    return report["drift"]["fits"][group] if report.get("drift") else {}


def drift_predicts(report: Mapping) -> Found | None:
    """Judge whether the forward divergence on new rows predicts, and better than the norm."""
    fits = _fits(report, "without_old_data")
    keys = ("kl_forward_new", "kl_reverse_new", "relative_norm")
    if not all(key in fits for key in keys):
        return None
    r2 = {key: fits[key]["r2"] for key in keys}
    text = verdicts.listed(r2, digits=2) + f", {fits[keys[0]]['n']} runs"
    ordered = r2[keys[0]] >= r2[keys[2]] - 0.01
    verdict = AGREE if r2[keys[0]] >= 0.85 and ordered else NOT_RESOLVED if ordered else DISAGREE
    why = "the norm fits better" if not ordered else "expected .85"
    return Found("R²: " + text, verdict, why)


def old_data_breaks_it(report: Mapping) -> Found | None:
    """Judge whether methods with old data forget less than the fit of the others says."""
    blind, every = _fits(report, "without_old_data"), _fits(report, "all")
    sees = set(report["study"]["sees_old"])
    if "kl_forward_new" not in blind or "kl_forward_old" not in every or not sees:
        return None
    a, b, c = blind["kl_forward_new"]["coefficients"]
    left = [
        point["forgetting"] - (a + b * (x := point["kl_forward_new"]) + c * x * x)
        for point in report["drift"]["points"]
        if point["method"] in sees
    ]
    drops = blind["kl_forward_new"]["r2"], every["kl_forward_new"]["r2"]
    old = every["kl_forward_old"]["r2"]
    text = (
        f"with old data {np.mean(left):+.3f} nats from the fit; R² {drops[0]:.2f} to "
        f"{drops[1]:.2f} on new rows, {old:.2f} on old ones"
    )
    less = verdicts.less(float(np.mean(left)), 0.0, verdicts.floor(report))
    fits = verdicts.holds(when=old > drops[1], otherwise="new rows fit as well as old ones")
    return Found(text, *verdicts.worst([less, fits]))


def states_predict(report: Mapping) -> Found | None:
    """Judge whether CKA or the Procrustes residual on old rows ranks runs better than the norm."""
    fits = _fits(report, "all")
    keys = ("cka_old", "procrustes_old", "relative_norm")
    if not all(key in fits for key in keys):
        return None
    rank = {key: fits[key]["spearman"] for key in keys}
    # CKA falls where forgetting grows.
    states = max(-rank["cka_old"], rank["procrustes_old"])
    said = verdicts.less(rank["relative_norm"], states, NEARER)
    text = verdicts.listed(rank, digits=2)
    return Found(f"rank correlations: {text}, {fits[keys[0]]['n']} runs", *said)


def intruders(report: Mapping) -> Found | None:
    """Judge whether LoRA makes more intruders, more by the rate, and more by the stage."""
    lora, full = verdicts.match_of(report, "lora"), verdicts.match_of(report, "full")
    if not lora or not full:
        return None
    names = {part: verdicts.method_of(report, part) for part in ("lora", "full")}
    count = lambda part, rate, stage=0: _mean(
        _spectra(report, names[part], rate, stage=stage), "intruders")  # fmt: skip
    rates = {part: report["study"]["rates"][name] for part, name in names.items()}
    at = {part: count(part, own["rate"]) for part, own in (("lora", lora), ("full", full))}
    swept = [count("lora", rate) for rate in sorted(rates["lora"])]
    if math.isnan(at["lora"]) or math.isnan(at["full"]):
        return None
    last = count("lora", max(rates["lora"]), stage=-1)
    said = [verdicts.less(at["full"], at["lora"], 0.5), verdicts.trend(swept, 0.5, of="intruders")]
    text = verdicts.listed(at, digits=0) + "; lora by rate " + ", ".join(f"{n:.0f}" for n in swept)
    if len(report["tasks"]) > 1:
        said.append(verdicts.less(swept[-1], last, 0.5))
        text += f"; first to last stage {swept[-1]:.0f} to {last:.0f}"
    return Found(text, *verdicts.worst(said))


def change_rank(report: Mapping) -> Found | None:
    """Judge whether full fine-tuning changes weights in far more directions."""
    found = {}
    for part in ("full", "lora"):
        if own := verdicts.match_of(report, part):
            found[part] = _mean(
                _spectra(report, verdicts.method_of(report, part), own["rate"], stage=0), "rank"
            )
    if len(found) < 2 or any(map(math.isnan, found.values())):
        return None
    said = verdicts.holds(when=found["full"] > 1.5 * found["lora"], otherwise="expected 1.5 times")
    return Found(verdicts.listed(found, digits=1), *said)


def _paths(report: Mapping, part: str) -> list[tuple[list[float], list[float]]]:
    """Return (gain, forgetting) on the way to every first stage of a part, by growing amount."""
    name, found = verdicts.method_of(report, part), []
    for cell in report["cells"]:
        if cell["method"] != name or cell["joint"] or not cell["changes"]:
            continue
        path, task = cell["changes"][0].get("path"), report["tasks"][cell["order"][0]]
        if path and task["label"] in path["0"]:
            way = [path[key] for key in sorted(path, key=float)]
            scale = task["top"] - task["base"]
            gain = [(-at[task["label"]] - task["base"]) / scale for at in way]
            probes = [p for p in report["probes"] if p in way[0]]
            fell = [float(np.mean([at[p] - way[0][p] for p in probes])) for at in way]
            found.append((gain, fell))
    return found


def path_is_monotone(report: Mapping) -> Found | None:
    """Judge whether forgetting grows all along the way from the base."""
    paths = _paths(report, "full")
    if not paths:
        return None
    falls = [float(max(0.0, -np.diff(fell).min())) for _, fell in paths]
    middle = np.mean([fell for _, fell in paths], 0)
    text = "forgetting along the way " + ", ".join(f"{f:.3f}" for f in middle)
    floor = verdicts.floor(report)
    why = f"falls by {max(falls):.3f} somewhere, floor {floor:.3f}"
    return Found(text, *verdicts.holds(when=max(falls) <= floor, otherwise=why))


def overshoots(report: Mapping) -> Found | None:
    """Judge whether some way back loses less than 2 % of the new score, and regains old ones."""
    paths = _paths(report, "full")
    if not paths:
        return None
    best = []
    for gain, fell in paths:
        near = [f for g, f in zip(gain, fell, strict=True) if g >= (1 - OLD_SHARE) * gain[-1]]
        best.append(fell[-1] - min(near))
    saved = float(np.mean(best))
    floor = verdicts.floor(report)
    verdict, why = AGREE if saved > floor else NOT_RESOLVED, f"floor {floor:.3f}"
    return Found(f"{saved:.3f} nats regained for < {OLD_SHARE:.0%} of the gain", verdict, why)
