"""From the scores and costs of all arms to a verdict per need: a pure function of decide.json.

    record["needs"] == conclude(record)

Everything that the report says of a need is computed here from the numbers that the file holds, so
that who doubts a verdict can compute it again, at other prices too.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ftjax.decide import answering, arms, citations, diagnosis, prices, significance, verdict
from ftjax.decide.break_even import break_even
from ftjax.decide.prices import Cost, Prices

SEED = 0  # of all resampling


def conclude(record: Mapping[str, Any]) -> dict[str, dict]:
    """Return what is concluded of every need."""
    chosen = prices.make(**record["prices"])
    places: dict[str, list[int]] = {}
    for i, item in enumerate(record["items"]):
        places.setdefault(item["need"], []).append(i)
    return {need: _need(record, need, own, chosen) for need, own in places.items()}


def cost_of(record: Mapping, label: str, need: str, places: list[int]) -> Cost:
    """Return the cost of an arm on the questions of one need."""
    own = record["arms"][label]
    mean = lambda key: float(np.mean([own[key][i] for i in places]))
    flops = answering.query_flops(
        record["flops"], prompt=mean("prompt_tokens"), new=mean("new_tokens"),
        shared=own["shared_tokens"][need],
    )  # fmt: skip
    training, latency = own["training"], own["latency"]
    trained = dict(flops=training["flops"], s=training["seconds"]) if training else {}
    query_s = latency["batch_s"] if latency else 0.0  # not measured
    renewed = _update(record, own, trained)
    return Cost(
        labels=own["labels"], train_flops=trained.get("flops", 0.0), train_s=trained.get("s", 0.0),
        query_flops=flops, query_s=query_s + (own["search_s"] or 0.0),
        update_flops=renewed.get("flops", 0.0), update_s=renewed.get("s", 0.0),
    )  # fmt: skip


def _update(record: Mapping, own: Mapping, trained: Mapping) -> Mapping:
    """Return FLOPs and seconds of an update: a new index for what retrieves, else new training.

    That is what was measured where the knowledge changed, and all the training again elsewhere.
    """
    if _retrieves(own):
        return dict(s=record["index_s"] or 0.0)
    return (
        dict(flops=own["update"]["flops"], s=own["update"]["seconds"]) if own["update"] else trained
    )


def _retrieves(own: Mapping) -> bool:
    return bool(arms.ARMS[own["name"]].passages)


def _need(record: Mapping, need: str, places: list[int], chosen: Prices) -> dict:
    if need in record["updated"]:  # its questions come after an update, which had to be made
        chosen = chosen._replace(updates=max(1.0, chosen.updates))
    names = {label: own["name"] for label, own in record["arms"].items() if "error" not in own}
    scores = {label: np.array(record["arms"][label]["scores"], float)[:, places] for label in names}
    costs = {label: cost_of(record, label, need, places) for label in names}
    totals = {label: prices.total(cost, chosen) for label, cost in costs.items()}
    usable = [label for label, name in names.items() if not arms.ARMS[name].is_ceiling]
    clusters = [record["items"][i]["cluster"] for i in places]
    options = dict(seed=SEED, clusters=clusters)
    found = verdict.decide({label: scores[label] for label in usable}, totals, **options)
    every = significance.draws(scores, **options)
    pairs = significance.differences(scores, every)
    flips = verdict.flips(found.chosen, found.candidates, costs, chosen)
    return {
        "questions": len(places),
        "clusters": len(set(clusters)),
        "chosen": found.chosen,
        "best": found.best,
        "candidates": list(found.candidates),
        "survived": found.survived,
        "resolved": found.is_resolved,
        "text": text(found, need, chosen),
        "scores": {k: own._asdict() for k, own in significance.estimates(scores, every).items()},
        "differences": [dict(a=a, b=b, **own._asdict()) for (a, b), own in found.pairs.items()],
        "costs": {label: own._asdict() for label, own in costs.items()},
        "totals": totals,
        "break_even": _break_even(found.chosen, costs, chosen),
        "flips": [each._asdict() for each in flips],
        "retrieval": _retrieval(record, scores, places),
        "stale": _stale(record, names, places) if need in record["updated"] else {},
        "diagnosis": diagnosis.of(names, scores, pairs),
    }


def _break_even(taken: str, costs: Mapping[str, Cost], chosen: Prices) -> dict:
    """Return from how many queries on the arm that is taken is cheaper than each other one."""
    lines = {label: prices.line(cost, chosen) for label, cost in costs.items()}
    return {
        label: break_even(lines[taken], own)._asdict()
        for label, own in lines.items()
        if label != taken
    }


def _retrieval(record: Mapping, scores: Mapping, places: list[int]) -> dict:
    """Return, of arms that cite, the share of cited answers and the scores by hit and miss."""
    found = {}
    for label, own in scores.items():
        arm = record["arms"][label]
        if not arms.ARMS[arm["name"]].passages:
            continue
        hits = [arm["hit"][i] for i in places]
        known = [n for n, each in enumerate(hits) if each is not None]
        split = citations.split(own.mean(0)[known], [hits[n] for n in known]) if known else None
        found[label] = {
            "cited": float(np.mean([arm["is_cited"][i] for i in places])),
            "hits": split and split.hits, "hit": split and split.hit, "miss": split and split.miss,
        }  # fmt: skip
    return found


def _stale(record: Mapping, names: Mapping[str, str], places: list[int]) -> dict[str, dict]:
    """Return the share of answers that were right before the knowledge changed.

    after: of the arm that was brought up to it. before: of the one that was not.
    """
    mean = lambda own, key: float(np.mean([[row[i] for i in places] for row in own[key]]))
    return {
        label: {
            "after": mean(record["arms"][label], "stale"),
            "before": mean(record["arms"][label], "stale_before"),
        }
        for label in names
    }


def text(found: verdict.Verdict, need: str, chosen: Prices) -> str:
    """Write the verdict on a need in one sentence or two."""
    told = lambda arm: "{} ({:.3f} [{:.3f}, {:.3f}])".format(arm, *found.estimates[arm][:3])
    if not found.is_resolved:
        return (
            f"{need}: not resolved: {told(found.chosen)} is chosen by {found.survived} of "
            f"{verdict.TRIES} resamples of the questions; ask more questions"
        )
    if not found.estimates[found.best].value:
        return f"{need}: no arm answers any question; {found.chosen} costs the least"
    others = [arm for arm in found.candidates if arm != found.chosen]
    if not others:
        reason = "better than every other arm" if found.pairs else "the only arm"
    else:
        reason = f"the cheapest of those not worse than {told(found.best)}"
        if found.best == found.chosen:
            reason = "the best, and no other that is not worse is cheaper"
        reason += f"; as good: {', '.join(others)}"
    at = f"at {chosen.queries:,.0f} queries and {chosen.updates:,.0f} updates"
    return f"{need}: {told(found.chosen)}, {reason} ({at}; cost in {chosen.unit})"
