"""What a round tells of itself: means over the policy's own answers, by name of a metric."""

import math
from collections.abc import Sequence

import numpy as np

from ftjax.objectives.losses.advantages import Experience


def of_round(
    e: Experience, output, *, labels: Sequence[str], own: int, finished_B: np.ndarray
) -> dict[str, float]:
    """Average lengths, the divergence from the base, and rewards where there are any.

    labels: of the reward functions. own: the first so many samples of a prompt are the policy's.
    finished_B: whether an answer came to an end.
    """
    of_own = lambda each: each.reshape(-1, e.samples, *each.shape[1:])[:, :own]
    kl_BT = (e.logps_BT - e.ref_logps_BT) * e.mask_BT
    found = {
        "answer/tokens": of_own(output.lengths), "kl/base": of_own(kl_BT.sum(-1)),
        "answer/ended": of_own(finished_B),
    }  # fmt: skip
    if labels:
        values_QNF = of_own(np.asarray(e.rewards_BF))
        found |= {f"reward/{label}": values_QNF[..., i] for i, label in enumerate(labels)}
        found |= _of_groups(np.nansum(values_QNF * np.float32(e.weights_F), -1))
    return {name: _mean(each) for name, each in found.items()} | {"kl/scale": e.kl_scale}


def _mean(values) -> float:
    """Average what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _of_groups(total_QN) -> dict[str, np.ndarray]:
    found = {"reward": total_QN}
    if total_QN.shape[1] < 2:
        return found
    deviation_Q = total_QN.std(-1)
    return found | {
        "reward/deviation": deviation_Q, "reward/best": total_QN.max(-1),
        "reward/flat_groups": deviation_Q == 0,
    }  # fmt: skip
