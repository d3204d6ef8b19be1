"""Supervised fine-tuning: the weighted negative log-likelihood of the targets.

    loss = sum_t w_t * [-(1 - s) log p_t(y_t) - s * mean_v log p_t(v) + z * (log Z_t)^2] / sum_t w_t

with label smoothing s (arXiv:1512.00567) and z-loss z (arXiv:2204.02311). The weights come from the
batch: 0 on prompts and padding, the product of the row's and the token's weight elsewhere.
"""

import jax.numpy as jnp

from ftjax.core.mean import Mean

EXAMPLE = dict(label_smoothing=0.1, z_loss=1e-4)
KIND = "tokens"


def make(*, label_smoothing: float = 0.0, z_loss: float = 0.0):
    """Make the objective.

    Raises:
      ValueError: label smoothing outside [0, 1), or a negative z-loss.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"objective.label_smoothing: got {label_smoothing}; expected 0 <= s < 1")
    if z_loss < 0:
        raise ValueError(f"objective.z_loss: got {z_loss}; expected at least 0")

    def objective(policy, reference, batch, key):
        del reference
        scores, weights = policy.statistics(batch, key), batch["weights"][..., 1:]
        nll = -scores.logp
        loss = nll
        if label_smoothing:
            loss = loss + label_smoothing * (scores.logp + scores.logz - scores.mean_logit)
        if z_loss:
            loss = loss + z_loss * jnp.square(scores.logz)
        return {"loss": Mean.of(loss, weights), "nll": Mean.of(nll, weights)}

    return objective
