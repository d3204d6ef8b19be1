"""Probes on which the base does no better than chance: what it cannot do it cannot forget.

    left_out(study, base)     {"arc": "0.26 [0.22, 0.30], chance is 0.25"}

Chance is 1 / choices of each row for `accuracy`, and 0 for texts that must be found (`exact_match`,
`f1`); other metrics have none. A probe is at chance where its 95 % interval reaches down to that.
"""

import numpy as np

from ftjax.evals.lib import bootstrap
from ftjax.studies.outcomes import Scores, per_example
from ftjax.studies.study import Study

TEXTS = ("exact_match", "f1")


def level(arrays, metric: str) -> float | None:
    """Return what guessing scores; None for a metric of which nobody knows."""
    if metric == "accuracy" and "chance" in arrays:
        return float(np.mean(arrays["chance"]))
    return 0.0 if metric in TEXTS else None


def left_out(study: Study, base: Scores) -> dict[str, str]:
    """Return the probes at chance, each with its score and that of chance."""
    found, metric = {}, study.match.metric
    for label in study.probes:
        chance = level(base[label], metric)
        if chance is None:
            continue
        values = per_example(base[label], metric)
        draws = bootstrap.indices(len(values), seed=0, resamples=bootstrap.RESAMPLES)
        low, high = bootstrap.interval([values[i].mean() for i in draws], level=0.95)
        if low <= chance:
            score = f"{values.mean():.3g} [{low:.3g}, {high:.3g}]"
            found[label] = f"{score}, chance is {chance:.3g}"
    return found
