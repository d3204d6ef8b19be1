"""Supervised fine-tuning: the weighted negative log-likelihood of the targets.

    loss = sum_t w_t * [-(1 - s) log p_t(y_t) - s * mean_v log p_t(v) + z * (log Z_t)^2] / sum_t w_t

with label smoothing s (arXiv:1512.00567) and z-loss z (arXiv:2204.02311). The weights come from the
batch: 0 on prompts and padding, the product of the row's and the token's weight elsewhere.
"""

import jax.numpy as jnp

from ftjax.core.typed import Chance, NonNegative
from ftjax.objectives.losses.spec import Spec
from ftjax.objectives.losses.token_loss import objective_of

EXAMPLE = dict(label_smoothing=0.1, z_loss=1e-4)
SPEC = Spec(data="tokens")


def make(*, label_smoothing: Chance = 0.0, z_loss: NonNegative = 0.0):
    """Make the objective; 0 leaves a term out."""

    def token_loss(logp, logz, mean_logit):
        loss = -logp
        if label_smoothing:
            # The mean of log p over the vocabulary is the mean logit less log Z.
            loss = loss + label_smoothing * (logp + logz - mean_logit)
        return loss + z_loss * jnp.square(logz) if z_loss else loss

    return objective_of(token_loss)
