"""Proximal policy optimisation (arXiv:1707.06347) with a value function, as in RLHF.

    loss = mean max(-r A, -clip(r) A) + value_weight * 1/2 mean max((V - R)^2, (clip(V) - R)^2)

Rewards of tokens are -kl_weight * KL to the base, with the score of the answer on the last one
(arXiv:2203.02155); A are generalised advantages, whitened; R the returns; V is kept within
`value_clip` of the value when the answer was sampled. The batch carries `old_logps`, `advantages`,
`old_values` and `returns`, all [B, T-1]; `policy.values` are the values before each token.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ftjax.core.mean import Mean
from ftjax.core.typed import NonNegative, Positive, Share
from ftjax.objectives.losses import advantages
from ftjax.objectives.losses import kl as estimators
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(clip=0.2, value_weight=0.5)
SPEC = Spec(
    data="experience",
    heads=("value",),
    ratio=True,
    kl_scale=True,
    hyper=("clip", "value_clip", "value_weight"),
)


# The defaults, here and of `make_advantages`, are those of TRL's PPOConfig.
def make(
    *, clip: Positive = 0.2, value_clip: Positive = 0.2, value_weight: NonNegative = 0.1,
    temperature: Positive = 1.0,
) -> Callable:  # fmt: skip
    """Make the objective; `temperature` is that of the sampling."""

    def objective(policy, reference, batch, key):
        del reference
        # One pass serves the probabilities and the values.
        cached = policy.with_hidden(batch, key)
        logps_BT = cached.statistics(batch, temperature=temperature).logp
        values_BT = cached.scores(batch, head="value")[:, :-1]
        mask_BT = (batch["weights"][:, 1:] > 0).astype(jnp.float32)
        log_ratio_BT = (logps_BT - batch["old_logps"]) * mask_BT
        gain = Mean.of(clipped_losses(log_ratio_BT, batch["advantages"], clip=clip), mask_BT)
        errors_BT = value_losses(
            values_BT, batch["old_values"], batch["returns"], clip=value_clip
        )  # fmt: skip
        value = Mean.of(errors_BT, mask_BT)
        return {
            "loss": (gain, value.scale(value_weight)), "loss/policy": gain, "loss/value": value,
            "ratio": Mean.of(jnp.exp(log_ratio_BT), mask_BT),
            "surprise": Mean.of(-logps_BT, mask_BT),
        }  # fmt: skip

    return objective


def make_advantages(
    *, kl_weight: NonNegative = 0.05, kl: str = "k1", discount: Share = 1.0, decay: Share = 0.95
) -> Callable:
    """Make `(experience) -> {"advantages", "returns", "old_values"}`, all [B, T].

    Args:
      kl_weight: of the divergence from the base; kl: its estimator.
      discount: of later rewards, gamma. decay: of later errors, lambda.
    """

    def credit(experience: advantages.Experience) -> dict:
        e, mask_BT = experience, experience.mask_BT
        # An answer without a reward has the score 0; its divergence counts all the same.
        total_B = jnp.nan_to_num(advantages.total(e.rewards_BF, e.weights_F))
        rewards_BT = mask_BT * token_rewards(
            advantages.at_last(total_B, mask_BT), e.logps_BT, e.ref_logps_BT,
            kl_weight=kl_weight * e.kl_scale, kl=kl,
        )  # fmt: skip
        values_BT = e.values_BT * mask_BT
        found, returns = advantages.gae(rewards_BT, values_BT, discount=discount, decay=decay)
        # After the returns: values learn rewards, not multiples of a deviation.
        white = advantages.whitened(found, mask_BT) * mask_BT
        return {"advantages": white, "returns": returns * mask_BT, "old_values": values_BT}

    return credit


def clipped_losses(log_ratio_BT, advantages_BT, *, clip: float) -> jax.Array:
    """Compute the policy's loss of every token."""
    ratio_BT = jnp.exp(log_ratio_BT)
    kept_BT = jnp.clip(ratio_BT, 1 - clip, 1 + clip)
    return jnp.maximum(-advantages_BT * ratio_BT, -advantages_BT * kept_BT)


def value_losses(values_BT, old_BT, returns_BT, *, clip: float) -> jax.Array:
    """Compute half the squared error of every value, the larger of the plain and the clipped."""
    kept_BT = jnp.clip(values_BT, old_BT - clip, old_BT + clip)
    errors = jnp.maximum(jnp.square(values_BT - returns_BT), jnp.square(kept_BT - returns_BT))
    return errors / 2


def token_rewards(scores_BT, logps_BT, ref_logps_BT, *, kl_weight: float, kl: str) -> jax.Array:
    """Subtract the weighted divergence from scores that stand where they are given."""
    return scores_BT - kl_weight * estimators.ESTIMATORS[kl](logps_BT, ref_logps_BT)
