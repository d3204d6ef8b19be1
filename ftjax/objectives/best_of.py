"""Rejection sampling: supervised learning on the best of a prompt's own samples (RAFT).

loss = -mean log p(best answer of each group)                                arXiv:2304.06767
"""

from collections.abc import Callable

import jax.numpy as jnp

from ftjax.objectives import sft
from ftjax.objectives.losses import advantages
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict()
SPEC = Spec(data="experience")


def make() -> Callable:
    """Make the objective: that of supervised fine-tuning, on the rows that are kept."""
    return sft.make()


def make_advantages(*, min_reward: float | None = None) -> Callable:
    """Make `(experience) -> {"keep": [B]}`: 1 for the best row of a group, from `min_reward` on."""

    def credit(experience: advantages.Experience) -> dict:
        total_B = advantages.total(experience.rewards_BF, experience.weights_F)
        # An answer without a reward is never the best; of equals argmax keeps the first.
        total_GN = jnp.nan_to_num(total_B, nan=-jnp.inf).reshape(-1, experience.samples)
        is_best = jnp.arange(experience.samples) == total_GN.argmax(-1)[:, None]
        floor = -jnp.inf if min_reward is None else min_reward
        return {"keep": (is_best & (total_GN > -jnp.inf) & (total_GN >= floor)).reshape(-1)}

    return credit
