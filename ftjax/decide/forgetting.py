"""What every arm leaves of old abilities: the same probes, with the arm's prompt always on.

A trained arm forgets; a prompt that stands in front of everything disturbs what it is not about,
the context tax. Both are the change of the score from the base's without any prompt.
"""

from collections.abc import Mapping

import numpy as np

from ftjax.decide import significance


def of(
    scores: Mapping[str, list[list[float]]], base: list[float], needs: list[str]
) -> dict[str, dict[str, dict]]:  # fmt: skip
    """Return, by arm and probe, the score, its change from the base's, and its interval.

    scores: arm -> [seeds][items]. base: [items] of the base as it is. needs: probe of each item.
    """
    found: dict[str, dict[str, dict]] = {label: {} for label in scores}
    for probe in dict.fromkeys(needs):
        places = [i for i, need in enumerate(needs) if need == probe]
        take = lambda own, places=places: np.array(own, float)[:, places]
        for label, own in scores.items():
            both = {"arm": take(own), "base": take([base])}
            draws = significance.draws(both, seed=0)
            change = significance.differences(both, draws)["arm", "base"]
            found[label][probe] = {
                "score": float(both["arm"].mean()), "base": float(both["base"].mean()),
                "change": change.value, "low": change.low, "high": change.high,
            }  # fmt: skip
    return found
