"""Dynamic fine-tuning (arXiv:2508.05629): the usual loss, each token weighed by its probability.

    loss = sum_t w_t [-p_t log p_t] / sum_t w_t              the first p_t without gradient

Plain fine-tuning is a policy gradient with a reward of 1 / p: it pulls hardest at what the model
finds unlikely. The factor p takes that away.
"""

import jax
import jax.numpy as jnp

from ftjax.core.mean import Mean
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict()
SPEC = Spec(data="tokens")


def make():
    """Make the objective."""

    def objective(policy, reference, batch, key):
        del reference
        logp, weights = policy.logps(batch, key), batch["weights"][..., 1:]
        loss = -jax.lax.stop_gradient(jnp.exp(logp)) * logp
        return {"loss": Mean.of(loss, weights), "nll": Mean.of(-logp, weights)}

    return objective
