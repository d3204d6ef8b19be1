"""Verdicts on statements of the literature, each computed from the report of a study.

A function takes a report and returns what the study says, or None where it does not carry the
statement: `study.parts` names the methods that play a part in it, `study.axes` their sweeps, and
`study.changes` what was measured of weights. What differs by less than the noise floor of the
study's seeds is not resolved.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

AGREE, DISAGREE, NOT_RESOLVED, NOT_RUN = "agree", "disagree", "not resolved", "not run"
# Nats, of a study with one seed, which has no floor of its own: above the 0.016 by which two runs
# of `configs/lora_without_regret.py` differ at most in 95 % of cases, from 14 pairs of seeds at
# rates up to 3e-3 that lose less than 0.35, chosen once the numbers were there. It is no floor for
# others: over all 21 pairs, with what is unstable, it would be 0.32.
MARGIN = 0.02
ZERO = 1e-6  # nats, of two computations of the same numbers
TIE = 0.02  # of the gain
ADAPTERS = ("lora", "pissa", "dora", "oft", "vera")  # parts of a study of adapter methods
VARIANTS = ("lora", "pissa", "dora")  # with the same weights to train
OLD_SHARE = 0.02  # of the new task's gain that old abilities may cost


class Found(NamedTuple):
    """What a study says to a statement: our numbers, and the verdict."""

    ours: str
    verdict: str


# -- reading a report ------------------------------------------------------------------------------


def floor(report: Mapping) -> float:
    """Return the noise floor of forgetting at the end: the median over methods and rates."""
    ends = [r["end"] for own in report["methods"].values() for r in own["rates"].values()]
    found = [end["forgetting_floor"] for end in ends if end and end["forgetting_floor"] is not None]
    return float(np.median(found)) if found else MARGIN


def _part(report: Mapping, name: str) -> str | None:
    return report["study"]["parts"].get(name)


def _matched(report: Mapping, part: str) -> Mapping | None:
    """Return a part's matched forgetting; None where it has none."""
    name = _part(report, part)
    found = report["methods"][name]["matched"] if name else None
    return found if found and found["rate"] is not None else None


def _spectra(report: Mapping, method: str, rate: float, *, stage: int) -> list[Mapping]:
    return [
        cell["changes"][stage]["spectrum"]
        for cell in report["cells"]
        if cell["method"] == method and cell["rate"] == rate and not cell["joint"]
        and cell["status"] == "done" and cell["changes"] and "spectrum" in cell["changes"][stage]
    ]  # fmt: skip


def _mean(spectra: Sequence[Mapping], key: str) -> float:
    return float(np.mean([one[key] for one in spectra])) if spectra else math.nan


def _trend(values: Sequence[float], margin: float) -> str:
    """Judge whether values rise: beyond the margin in all, and no step falls by more than it."""
    steps = np.diff(values)
    if (steps < -margin).any():
        return DISAGREE
    return AGREE if values[-1] - values[0] > margin else NOT_RESOLVED


def _less(one: float, other: float, margin: float) -> str:
    """Judge whether one is less than the other."""
    return NOT_RESOLVED if abs(one - other) <= margin else AGREE if one < other else DISAGREE


def _worst(verdicts: Sequence[str]) -> str:
    return next((v for v in (DISAGREE, NOT_RESOLVED) if v in verdicts), AGREE)


def _listed(values: Mapping[str, float], *, digits: int = 3) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())


# -- statements ------------------------------------------------------------------------------------


def zero(report: Mapping) -> Found | None:
    """Judge whether the base against itself is without any change."""
    itself = report.get("base_against_itself")
    if not itself or "drift" not in itself or "spectrum" not in itself:
        return None
    kl = max(abs(own[k]) for own in itself["drift"].values() for k in ("kl_forward", "kl_reverse"))
    weights = [itself["spectrum"][key] for key in ("relative_norm", "rank", "intruders")]
    verdict = AGREE if kl < ZERO and not any(weights) else DISAGREE
    return Found(f"KL {kl:.0e}, norm, rank and intruders {max(weights):g}", verdict)


def _by_rate(report: Mapping, part: str) -> dict[str, float]:
    name = _part(report, part)
    rates = report["methods"][name]["rates"] if name else {}
    found = {rate: own["forgetting_at_match"] for rate, own in rates.items()}
    return {rate: own["value"] for rate, own in found.items() if own}


def rate_grows(report: Mapping) -> Found | None:
    """Judge whether forgetting at the match grows with the rate."""
    swept = {part: _by_rate(report, part) for part in ("full", "lora")}
    swept = {part: own for part, own in swept.items() if len(own) > 1}
    if not swept:
        return None
    verdicts = [_trend(list(own.values()), floor(report)) for own in swept.values()]
    texts = [f"{part}: " + _listed(own) for part, own in swept.items()]
    return Found("; ".join(texts), _worst(verdicts))


def _ends(report: Mapping, axis: str) -> dict[str, list[tuple[float, float]]]:
    """Return (gain, forgetting) along an axis at every rate that all its methods have."""
    places = report["axes"].get(axis, {})
    order = sorted(places, key=places.get)
    rates = [set(report["methods"][name]["rates"]) for name in order]
    found = {}
    for rate in sorted(set.intersection(*rates), key=float) if rates else ():
        ends = [report["methods"][name]["rates"][rate]["end"] for name in order]
        if all(ends):
            found[rate] = [(end["gain"]["value"], end["forgetting"]["value"]) for end in ends]
    return found


def rank(report: Mapping) -> Found | None:
    """Judge whether gain and forgetting at equal steps both grow with the rank."""
    swept = _ends(report, "rank")
    if not swept:
        return None
    verdicts, texts = [], []
    for rate, points in swept.items():
        gains, fell = zip(*points, strict=True)
        verdicts += [_trend(gains, 0.01), _trend(fell, floor(report))]
        texts.append(f"at {rate}, gain " + " < ".join(f"{g:.2f}" for g in gains)
                     + ", forgetting " + " < ".join(f"{f:.3f}" for f in fell))  # fmt: skip
    return Found("; ".join(texts).replace("<", "to"), _worst(verdicts))


def versus(one: str, other: str, *, margin: float = 0.0) -> Callable[[Mapping], Found | None]:
    """Judge whether a part forgets less than another one at the match."""

    def found(report: Mapping) -> Found | None:
        both = [_matched(report, part) for part in (one, other)]
        if not all(both):
            return _missed(report, (one, other))
        values = [own["value"] for own in both]
        text = _listed(dict(zip((one, other), values, strict=True)))
        edge = [p for p, own in zip((one, other), both, strict=True) if own["at_edge"]]
        text += f" (best rate at the edge: {', '.join(edge)})" if edge else ""
        return Found(text, _less(*values, max(margin, _pair_floor(report, both))))

    return found


def _missed(report: Mapping, parts: Sequence[str]) -> Found | None:
    """Say which parts of a study missed the target; None where it does not have all of them."""
    names = {part: _part(report, part) for part in parts}
    if not all(names.values()):
        return None
    found = {part: report["methods"][name]["matched"] for part, name in names.items()}
    texts = [f"{part}: {own['text']}" for part, own in found.items() if own["rate"] is None]
    return Found("; ".join(texts), NOT_RESOLVED)


def _pair_floor(report: Mapping, both: Sequence[Mapping]) -> float:
    floors = [own["floor"]["value"] for own in both if own["floor"]]
    return max(floors) if floors else floor(report)


def sequence(report: Mapping) -> Found | None:
    """Judge whether merged LoRAs forget more than full fine-tuning after three tasks."""
    if len(report["tasks"]) < 3 or report["study"]["carry"] != "merged":
        return None
    lora, full = (_end_at_best(report, part) for part in ("lora", "full"))
    if lora is None or full is None:
        return None
    verdict = _less(full, lora, floor(report))
    return Found(f"after {len(report['tasks'])} stages: full {full:.3f}, lora {lora:.3f}", verdict)


def _end_at_best(report: Mapping, part: str) -> float | None:
    matched = _matched(report, part)
    if not matched:
        return None
    rate = report["methods"][_part(report, part)]["rates"][f"{matched['rate']:g}"]
    return rate["end"]["forgetting"]["value"]


def replay(report: Mapping) -> Found | None:
    """Judge whether forgetting falls with the share of old rows, at the highest common rate."""
    swept = _ends(report, "replay")
    if not swept:
        return None
    rate, points = list(swept.items())[-1]
    gains, fell = zip(*points, strict=True)
    cost = max(0.0, gains[0] - min(gains))
    verdict = _trend([-f for f in fell], floor(report))
    shares = sorted(report["axes"]["replay"].values())
    shown = ", ".join(f"{p:.0%}: {f:.3f}" for p, f in zip(shares, fell, strict=True))
    return Found(f"at {rate}: {shown}; gain down by {cost:.1%} at most", verdict)


def self_replay(report: Mapping) -> Found | None:
    """Judge whether sampled old rows keep within twice of what real ones do."""
    both = [_end_at_best(report, part) for part in ("self_replay", "replay")]
    if None in both:
        return None
    own, real = both
    verdict = AGREE if own <= 2 * real + floor(report) else DISAGREE
    return Found(f"self {own:.3f}, real {real:.3f}", verdict)


def _fits(report: Mapping, group: str) -> Mapping:
    return report["drift"]["fits"][group] if report.get("drift") else {}


def drift_predicts(report: Mapping) -> Found | None:
    """Judge whether the forward divergence on new rows predicts, and better than the norm."""
    fits = _fits(report, "without_old_data")
    keys = ("kl_forward_new", "kl_reverse_new", "relative_norm")
    if not all(key in fits for key in keys):
        return None
    r2 = {key: fits[key]["r2"] for key in keys}
    text = _listed(r2, digits=2) + f", {fits[keys[0]]['n']} runs"
    ordered = r2[keys[0]] >= r2[keys[2]] - 0.01
    verdict = AGREE if r2[keys[0]] >= 0.85 and ordered else NOT_RESOLVED if ordered else DISAGREE
    return Found("R²: " + text, verdict)


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
    verdict = _less(float(np.mean(left)), 0.0, floor(report))
    return Found(text, _worst([verdict, AGREE if old > drops[1] else DISAGREE]))


def intruders(report: Mapping) -> Found | None:
    """Judge whether LoRA makes more intruders, more by the rate, and more by the stage."""
    lora, full = _matched(report, "lora"), _matched(report, "full")
    if not lora or not full:
        return None
    names = {part: _part(report, part) for part in ("lora", "full")}
    count = lambda part, rate, stage=0: _mean(
        _spectra(report, names[part], rate, stage=stage), "intruders")  # fmt: skip
    rates = {part: report["study"]["rates"][name] for part, name in names.items()}
    at = {part: count(part, own["rate"]) for part, own in (("lora", lora), ("full", full))}
    swept = [count("lora", rate) for rate in sorted(rates["lora"])]
    if math.isnan(at["lora"]) or math.isnan(at["full"]):
        return None
    last = count("lora", max(rates["lora"]), stage=-1)
    verdicts = [_less(at["full"], at["lora"], 0.5), _trend(swept, 0.5)]
    text = _listed(at, digits=0) + "; lora by rate " + ", ".join(f"{n:.0f}" for n in swept)
    if len(report["tasks"]) > 1:
        verdicts.append(_less(swept[-1], last, 0.5))
        text += f"; first to last stage {swept[-1]:.0f} to {last:.0f}"
    return Found(text, _worst(verdicts))


def change_rank(report: Mapping) -> Found | None:
    """Judge whether full fine-tuning changes weights in far more directions."""
    found = {}
    for part in ("full", "lora"):
        if own := _matched(report, part):
            found[part] = _mean(_spectra(report, _part(report, part), own["rate"], stage=0), "rank")
    if len(found) < 2 or any(map(math.isnan, found.values())):
        return None
    verdict = AGREE if found["full"] > 1.5 * found["lora"] else DISAGREE
    return Found(_listed(found, digits=1), verdict)


# -- on the way from the base to the tuned model ---------------------------------------------------


def _paths(report: Mapping, part: str) -> list[tuple[list[float], list[float]]]:
    """Return (gain, forgetting) on the way to every first stage of a part, by growing amount."""
    name, found = _part(report, part), []
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
    return Found(text, AGREE if max(falls) <= floor(report) else DISAGREE)


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
    verdict = AGREE if saved > floor(report) else NOT_RESOLVED
    return Found(f"{saved:.3f} nats regained for < {OLD_SHARE:.0%} of the gain", verdict)


def rates(report: Mapping) -> Found | None:
    """Judge whether LoRA's best rate is 3 to 30 times that of full fine-tuning."""
    lora, full = _matched(report, "lora"), _matched(report, "full")
    swept = [report["study"]["rates"].get(_part(report, part), ()) for part in ("lora", "full")]
    if not lora or not full or min(map(len, swept)) < 2:
        return None
    ratio = lora["rate"] / full["rate"]
    return Found(f"{ratio:.3g} (rates as swept)", AGREE if 3 <= ratio <= 30 else DISAGREE)


def sites(report: Mapping) -> Found | None:
    """Judge whether adapters of attention alone learn less than those of the MLP."""
    gains = {}
    for part in ("attention", "mlp"):
        name = _part(report, part)
        rates = report["methods"][name]["rates"].values() if name else ()
        known = [one["end"]["gain"]["value"] for one in rates if one["end"]]
        if not known:
            return None
        gains[part] = max(known)
    return Found("gain: " + _listed(gains, digits=2), _less(*gains.values(), 0.01))


# -- adapter methods against each other ------------------------------------------------------------


def arena(report: Mapping) -> Found | None:
    """Judge whether OFT forgets least of the adapter methods at the match, and PiSSA most."""
    both = {part: own for part in ADAPTERS if (own := _matched(report, part))}
    if len(both) < 3 or not {"oft", "pissa"} <= both.keys():
        return None
    values = {part: own["value"] for part, own in both.items()}
    margin = _pair_floor(report, list(both.values()))
    others = lambda name: [value for part, value in values.items() if part != name]
    is_front = AGREE if values["oft"] <= min(others("oft")) + margin else DISAGREE
    text = _listed(dict(sorted(values.items(), key=lambda own: own[1])))
    return Found(text, _worst([is_front, _less(max(others("pissa")), values["pissa"], margin)]))


def variants_tie(report: Mapping) -> Found | None:
    """Judge whether variants of LoRA, each at its best rate, learn equally much, within 2 %."""
    gains, floors = {}, []
    for part in VARIANTS:
        name = _part(report, part)
        ends = [r["end"] for r in report["methods"][name]["rates"].values()] if name else []
        if known := [end for end in ends if end]:
            best = max(known, key=lambda end: end["gain"]["value"])
            gains[part] = best["gain"]["value"]
            floors += [best["gain_floor"]] if best["gain_floor"] is not None else []
    if len(gains) < 2:
        return None
    spread = (max(gains.values()) - min(gains.values())) / max(gains.values())
    is_noise = floors and spread * max(gains.values()) <= max(floors)
    verdict = AGREE if spread <= TIE else NOT_RESOLVED if is_noise else DISAGREE
    return Found(f"gain: {_listed(gains)}; {spread:.1%} apart", verdict)
