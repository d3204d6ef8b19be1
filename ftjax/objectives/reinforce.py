"""REINFORCE++ (arXiv:2501.03262): PPO's clipped loss and token rewards, without a value function.

Advantages are the sums of token rewards to come, whitened over the batch:

r_t = -kl_weight * k1_t, plus the reward on the last token;  A_t = sum_k gamma^k r_t+k
the advantages of all tokens of the batch are whitened together
"""

from collections.abc import Callable

import jax.numpy as jnp

from ftjax.core.typed import NonNegative, Positive, Share
from ftjax.objectives import grpo
from ftjax.objectives.losses import advantages
from ftjax.objectives.losses import kl as estimators
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(low=0.2, high=0.2)
SPEC = Spec(data="experience", ratio=True, kl_scale=True)


def make(*, low: Positive = 0.2, high: Positive = 0.2, temperature: Positive = 1.0) -> Callable:
    """Make the objective; the batch is that of `grpo`, with an advantage for every token."""
    return grpo.make(loss="dapo", low=low, high=high, temperature=temperature)


def make_advantages(
    *, kl_weight: NonNegative = 0.01, discount: Share = 1.0, kl: str = "k1"
) -> Callable:
    """Make `(experience) -> {"advantages": [B, T]}`."""
    estimate = estimators.ESTIMATORS[kl]

    def credit(experience) -> dict:
        mask_BT = experience.mask_BT
        total_B = advantages.total(experience.rewards_BF, experience.weights_F)
        # An answer without a reward has the score 0; its divergence counts all the same.
        rewards_BT = advantages.at_last(jnp.nan_to_num(total_B), mask_BT)
        if kl_weight:
            kl_BT = estimate(experience.logps_BT, experience.ref_logps_BT)
            rewards_BT -= kl_weight * experience.kl_scale * kl_BT * mask_BT
        found = advantages.discounted(rewards_BT, discount=discount)
        return {"advantages": advantages.whitened(found, mask_BT) * mask_BT}

    return credit
