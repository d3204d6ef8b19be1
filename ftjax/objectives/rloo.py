"""REINFORCE with leave-one-out baselines (arXiv:2402.14740): whole answers are single actions.

The KL to the base is part of the reward:

A_i = R_i - mean of the rewards of the other samples,   R_i = reward_i - kl_weight * k1 of row i
loss = -mean_i min(r_i A_i, clip(r_i) A_i),             r_i = ratio of whole probabilities
"""

from collections.abc import Callable

import jax.numpy as jnp

from ftjax.core.typed import NonNegative, Positive
from ftjax.objectives import grpo
from ftjax.objectives.losses import advantages, kl
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(low=0.2, high=0.2)
SPEC = Spec(data="experience", ratio=True, kl_scale=True)


def make(*, low: Positive = 0.2, high: Positive = 0.2, temperature: Positive = 1.0) -> Callable:
    """Make the objective; the batch is that of `grpo`."""
    numbers = dict(low=low, high=high, temperature=temperature)
    # All tokens of a row have its one value, so that the mean over them is that value.
    return grpo.make(loss="grpo", importance="whole", **numbers)


def make_advantages(
    *, kl_weight: NonNegative = 0.05, clip: tuple | None = None, normalise: bool = False
) -> Callable:
    """Make `(experience) -> {"advantages": [B]}`.

    Args:
      kl_weight: of the divergence from the base, which lowers the reward.
      clip: (low, high) bounds of a reward.
      normalise: give the advantages of the batch deviation 1.
    """

    def credit(experience) -> dict:
        rewards_B = advantages.total(experience.rewards_BF, experience.weights_F)
        rewards_B = rewards_B if clip is None else jnp.clip(rewards_B, *clip)
        if kl_weight:
            kl_BT = kl.k1(experience.logps_BT, experience.ref_logps_BT)
            rewards_B -= kl_weight * experience.kl_scale * (kl_BT * experience.mask_BT).sum(-1)
        found = advantages.leave_one_out(rewards_B, size=experience.samples)
        return {"advantages": advantages.normalised(found) if normalise else found}

    return credit
