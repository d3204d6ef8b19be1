"""What every arm leaves of old abilities: the same probes, with the arm's prompt always on.

A trained arm forgets; a prompt that stands in front of everything disturbs what it is not about,
the context tax. Both are the change of the score from the base's without any prompt.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ftjax.decide import significance


def of(
    scores: Mapping[str, list[list[float]]], base: list[float], items: Sequence[Mapping]
) -> dict[str, dict[str, dict]]:  # fmt: skip
    """Return, by arm and probe, the score, its change from the base's, and its interval.

    scores: arm -> [seeds][items]. base: [items] of the base as it is. items: the probe of
    each as its "need", and its "cluster".
    """
    found: dict[str, dict[str, dict]] = {label: {} for label in scores}
    for probe in dict.fromkeys(item["need"] for item in items):
        places = [i for i, item in enumerate(items) if item["need"] == probe]
        clusters = [items[i]["cluster"] for i in places]
        take = lambda own, places=places: np.array(own, float)[:, places]
        for label, own in scores.items():
            both = {"arm": take(own), "base": take([base])}
            draws = significance.draws(both, seed=0, clusters=clusters)
            change = significance.differences(both, draws)["arm", "base"]
            found[label][probe] = {
                "score": float(both["arm"].mean()), "base": float(both["base"].mean()),
                "change": change.value, "low": change.low, "high": change.high,
            }  # fmt: skip
    return found
