"""Proximal policy optimisation (arXiv:1707.06347) with a value function, as in RLHF.

    loss = mean max(-r A, -clip(r) A) + value_weight * 1/2 mean max((V - R)^2, (clip(V) - R)^2)

Rewards of tokens are -kl_weight * KL to the base, with the score of the answer on the last one
(arXiv:2203.02155); A are generalised advantages, whitened; R the returns; V is kept within
`value_clip` of the value when the answer was sampled. The batch carries `old_logps`, `advantages`,
`old_values` and `returns`, all [B, T-1]; `policy.values` are the values before each token.
"""

import jax
import jax.numpy as jnp

from ftjax.objectives import kl as estimators


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
