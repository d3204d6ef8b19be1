"""Verdicts on statements of the literature, each computed from the report of a study.

A function takes a report and returns what the study says, or None where it does not carry the
statement: `study.parts` names the methods that play a part in it, `study.axes` their sweeps, and
`study.changes` what was measured of weights. What differs by less than the noise floor of the
study's seeds is not resolved.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

AGREE, DISAGREE, NOT_RESOLVED, NOT_RUN = "agree", "disagree", "not resolved", "not run"
# Nats, of a study with one seed, which has no floor of its own: above the 0.016 by which two runs
# of `configs/lora_without_regret.py` differ at most in 95 % of cases, from 14 pairs of seeds at
# rates up to 3e-3 that lose less than 0.35, chosen once the numbers were there. It is no floor for
# others: over all 21 pairs, with what is unstable, it would be 0.32.
MARGIN = 0.02
HALF = 0.5  # of what was lost, or was taught
TIE = 0.02  # of the gain
ADAPTERS = ("lora", "pissa", "dora", "oft", "vera")  # parts of a study of adapter methods
VARIANTS = ("lora", "pissa", "dora")  # with the same weights to train


class Said(NamedTuple):
    """A verdict, and the numbers that it rests on."""

    verdict: str
    why: str = ""


class Found(NamedTuple):
    """What a study says to a statement: our numbers, the verdict, and what that rests on."""

    ours: str
    verdict: str
    why: str = ""


# -- reading a report ------------------------------------------------------------------------------


def floor(report: Mapping) -> float:
    """Return the noise floor of forgetting at the end: the median over methods and rates."""
    ends = [r["end"] for own in report["methods"].values() for r in own["rates"].values()]
    found = [end["forgetting_floor"] for end in ends if end and end["forgetting_floor"] is not None]
    return float(np.median(found)) if found else MARGIN


def method_of(report: Mapping, name: str) -> str | None:
    """Return the method that plays a part; None where the study has none."""
    return report["study"]["parts"].get(name)


def match_of(report: Mapping, part: str) -> Mapping | None:
    """Return a part's matched forgetting; None where it has none."""
    name = method_of(report, part)
    found = report["methods"][name]["matched"] if name else None
    return found if found and found["rate"] is not None else None


def trend(values: Sequence[float], margin: float, *, of: str) -> Said:
    """Judge whether values rise: beyond the margin in all, and no step falls by more than it."""
    fall, rise = -float(np.diff(values).min(initial=0.0)), values[-1] - values[0]
    if fall > margin:
        return Said(DISAGREE, f"{of} goes the other way once, by {fall:.3f}, floor {margin:.3f}")
    return Said(AGREE if rise > margin else NOT_RESOLVED,
                f"{of} moves by {rise:+.3f} in all, floor {margin:.3f}")  # fmt: skip


def less(one: float, other: float, margin: float) -> Said:
    """Judge whether one is less than the other."""
    verdict = NOT_RESOLVED if abs(one - other) <= margin else AGREE if one < other else DISAGREE
    return Said(verdict, f"{one - other:+.3f}, floor {margin:.3f}")


def holds(*, when: bool, otherwise: str) -> Said:
    """Judge by what is true, whatever the seeds; otherwise: why it disagrees."""
    return Said(AGREE) if when else Said(DISAGREE, otherwise)


def worst(said: Sequence[Said]) -> Said:
    """Join verdicts on the parts of a statement: it holds where all do."""
    verdict = next((v for v in (DISAGREE, NOT_RESOLVED) if v in {each.verdict for each in said}),
                   AGREE)  # fmt: skip
    return Said(verdict, "; ".join(x.why for x in said if x.verdict == verdict and x.why))


def listed(values: Mapping[str, float], *, digits: int = 3) -> str:
    """Write named values."""
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())


# -- statements ------------------------------------------------------------------------------------


def _by_rate(report: Mapping, part: str) -> dict[str, float]:
    name = method_of(report, part)
    rates = report["methods"][name]["rates"] if name else {}
    found = {rate: own["forgetting_at_match"] for rate, own in rates.items()}
    return {rate: own["value"] for rate, own in found.items() if own}


def rate_grows(report: Mapping) -> Found | None:
    """Judge whether forgetting at the match grows with the rate."""
    swept = {part: _by_rate(report, part) for part in ("full", "lora")}
    swept = {part: own for part, own in swept.items() if len(own) > 1}
    if not swept:
        return None
    said = [trend(list(own.values()), floor(report), of=part) for part, own in swept.items()]
    texts = [f"{part}: " + listed(own) for part, own in swept.items()]
    return Found("; ".join(texts), *worst(said))


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
    said, texts = [], []
    for rate, points in swept.items():
        gains, fell = zip(*points, strict=True)
        said += [trend(gains, 0.01, of=f"gain at {rate}"),
                 trend(fell, floor(report), of=f"forgetting at {rate}")]  # fmt: skip
        texts.append(f"at {rate}, gain " + " < ".join(f"{g:.2f}" for g in gains)
                     + ", forgetting " + " < ".join(f"{f:.3f}" for f in fell))  # fmt: skip
    return Found("; ".join(texts).replace("<", "to"), *worst(said))


def versus(one: str, other: str, *, margin: float = 0.0) -> Callable[[Mapping], Found | None]:
    """Judge whether a part forgets less than another one at the match."""

    def found(report: Mapping) -> Found | None:
        both = [match_of(report, part) for part in (one, other)]
        if not all(both):
            return _missed(report, (one, other))
        values = [own["value"] for own in both]
        text = listed(dict(zip((one, other), values, strict=True)))
        edge = [p for p, own in zip((one, other), both, strict=True) if own["at_edge"]]
        text += f" (best rate at the edge: {', '.join(edge)})" if edge else ""
        return Found(text, *less(*values, max(margin, _pair_floor(report, both))))

    return found


def _missed(report: Mapping, parts: Sequence[str]) -> Found | None:
    """Say which parts of a study missed the target; None where it does not have all of them."""
    names = {part: method_of(report, part) for part in parts}
    if not all(names.values()):
        return None
    found = {part: report["methods"][name]["matched"] for part, name in names.items()}
    texts = [f"{part}: {own['text']}" for part, own in found.items() if own["rate"] is None]
    return Found("; ".join(texts), NOT_RESOLVED, "the target is not reached")


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
    said = less(full, lora, floor(report))
    return Found(f"after {len(report['tasks'])} stages: full {full:.3f}, lora {lora:.3f}", *said)


def _end_at_best(report: Mapping, part: str) -> float | None:
    matched = match_of(report, part)
    if not matched:
        return None
    rate = report["methods"][method_of(report, part)]["rates"][f"{matched['rate']:g}"]
    return rate["end"]["forgetting"]["value"]


def replay(report: Mapping) -> Found | None:
    """Judge whether forgetting falls with the share of old rows, at the highest common rate."""
    swept = _ends(report, "replay")
    if not swept:
        return None
    rate, points = list(swept.items())[-1]
    gains, fell = zip(*points, strict=True)
    cost = max(0.0, gains[0] - min(gains))
    said = trend([-f for f in fell], floor(report), of="what is kept")
    shares = sorted(report["axes"]["replay"].values())
    shown = ", ".join(f"{p:.0%}: {f:.3f}" for p, f in zip(shares, fell, strict=True))
    return Found(f"at {rate}: {shown}; gain down by {cost:.1%} at most", *said)


def self_replay(report: Mapping) -> Found | None:
    """Judge whether sampled old rows keep within twice of what real ones do."""
    both = [_end_at_best(report, part) for part in ("self_replay", "replay")]
    if None in both:
        return None
    own, real = both
    said = holds(when=own <= 2 * real + floor(report), otherwise="more than twice as much")
    return Found(f"self {own:.3f}, real {real:.3f}", *said)


def rates(report: Mapping) -> Found | None:
    """Judge whether LoRA's best rate is 3 to 30 times that of full fine-tuning."""
    lora, full = match_of(report, "lora"), match_of(report, "full")
    swept = [report["study"]["rates"].get(method_of(report, part), ()) for part in ("lora", "full")]
    if not lora or not full or min(map(len, swept)) < 2:
        return None
    ratio = lora["rate"] / full["rate"]
    return Found(
        f"{ratio:.3g} (rates as swept)", *holds(when=3 <= ratio <= 30, otherwise="expected 3 to 30")
    )


def sites(report: Mapping) -> Found | None:
    """Judge whether adapters of attention alone learn less than those of the MLP."""
    gains = {}
    for part in ("attention", "mlp"):
        name = method_of(report, part)
        rates = report["methods"][name]["rates"].values() if name else ()
        known = [one["end"]["gain"]["value"] for one in rates if one["end"]]
        if not known:
            return None
        gains[part] = max(known)
    return Found("gain: " + listed(gains, digits=2), *less(*gains.values(), 0.01))


# -- what comes back, and what goes ----------------------------------------------------------------


def recovers(part: str) -> Callable[[Mapping], Found | None]:
    """Judge whether a part brings back at least half of what was lost, at its best rate."""

    def found(report: Mapping) -> Found | None:
        name, again = method_of(report, part), report["study"].get("recover")
        if not name or not again:
            return None
        task = report["tasks"][again[0]]["label"]
        cells = [cell for cell in report["cells"] if cell["method"] == name and not cell["reason"]]
        places = {cell["cell"]: cell["order"].index(again[0]) for cell in cells}
        way: dict[float, list[tuple[float, float, float, float]]] = {}
        for cell in cells:
            n, scores = places[cell["cell"]], cell["scores"]
            earlier = report["tasks"][cell["order"][n - 1]]["label"]
            cost = scores[n][earlier] - scores[n + 1][earlier]
            way.setdefault(cell["rate"], []).append(
                (scores[0][task], scores[n][task], scores[n + 1][task], cost)
            )
        if not way:
            return None
        rows = {rate: np.mean(own, 0) for rate, own in way.items()}
        base, fell, after, cost = max(rows.values(), key=lambda row: row[2])
        share = (after - fell) / (base - fell)
        text = f"{base:.2f} to {fell:.2f} to {after:.2f}; the task before it loses {cost:.2f}"
        return Found(
            text, *holds(when=share >= HALF, otherwise=f"{share:.0%} of what was lost came back")
        )

    return found


def rules_die(report: Mapping) -> Found | None:
    """Judge whether a stage takes away at least half of a refusal that was taught before it."""
    if "refusal" not in report["tasks"]:
        return None
    task, texts, kept = report["tasks"]["refusal"]["label"], [], []
    for part in ("full", "lora"):
        name = method_of(report, part)
        cells = [c for c in report["cells"] if c["method"] == name and not c["reason"]]
        if not cells:
            return None
        taught, after = (np.mean([cell["scores"][n][task] for cell in cells]) for n in (1, -1))
        texts.append(f"{part} {taught:.2f} to {after:.2f}")
        kept.append(after <= HALF * taught)
    return Found("; ".join(texts), *holds(when=all(kept), otherwise="more than half of it is left"))


# -- adapter methods against each other ------------------------------------------------------------


def arena(report: Mapping) -> Found | None:
    """Judge whether OFT forgets least of the adapter methods at the match, and PiSSA most."""
    both = {part: own for part in ADAPTERS if (own := match_of(report, part))}
    if len(both) < 3 or not {"oft", "pissa"} <= both.keys():
        return None
    values = {part: own["value"] for part, own in both.items()}
    margin = _pair_floor(report, list(both.values()))
    others = lambda name: [value for part, value in values.items() if part != name]
    behind = values["oft"] - min(others("oft"))
    why = f"OFT is behind by {behind:.3f}, floor {margin:.3f}"
    front = holds(when=behind <= margin, otherwise=why)
    last = less(max(others("pissa")), values["pissa"], margin)
    text = listed(dict(sorted(values.items(), key=lambda own: own[1])))
    return Found(text, *worst([front, last._replace(why=f"the worst beside PiSSA: {last.why}")]))


def variants_tie(report: Mapping) -> Found | None:
    """Judge whether variants of LoRA, each at its best rate, learn equally much, within 2 %."""
    gains, floors = {}, []
    for part in VARIANTS:
        name = method_of(report, part)
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
    why = f"floor {max(floors, default=0.0):.3f}"
    return Found(f"gain: {listed(gains)}; {spread:.1%} apart", verdict, why)


# -- studies over bases of several sizes -----------------------------------------------------------


def capacity(reports: Sequence[Mapping]) -> Found | None:
    """Judge whether forgetting at the match falls with the size of the base, a report each."""
    matches = {report["base_parameters"]: match_of(report, "sized") for report in reports}
    matches = {size: own for size, own in sorted(matches.items()) if own}
    if len(matches) < 3:
        return None
    values = [own["value"] for own in matches.values()]
    margin = max(_pair_floor(report, [match_of(report, "sized") or {"floor": None}])
                 for report in reports)  # fmt: skip
    shown = listed({f"{size / 1e6:.2f} M": own["value"] for size, own in matches.items()})
    return Found(shown, *trend([-value for value in values], margin, of="what is kept"))
