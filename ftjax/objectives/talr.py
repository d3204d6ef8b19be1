"""Token-adaptive loss reweighting (arXiv:2509.20758): unlikely tokens count less.

    loss = sum_t w_t s_t [-log p_t] / sum_t w_t,   s_t = max(p_t^(1 / tau), floor), without gradient

What is unlikely pulls hardest at the weights, and so at all else that they know. tau 1 and floor 0
are dynamic fine-tuning (`dft`); with floor 1 it is plain fine-tuning, to the bit.
"""

import jax
import jax.numpy as jnp

from ftjax.core.typed import Positive, Share
from ftjax.objectives.losses.spec import Spec
from ftjax.objectives.losses.token_loss import objective_of

EXAMPLE = dict(tau=2.0, floor=0.05)
SPEC = Spec(data="tokens")


def make(*, tau: Positive, floor: Share = 0.01):
    """Make the objective.

    tau: nats of loss over which a token's weight falls by e; the paper takes the median loss.
    floor: the least weight, which keeps hard tokens in the lesson.
    """

    def token_loss(logp, logz, mean_logit):
        del logz, mean_logit
        # Of a probability that rounding puts above 1 the weight is 1.
        scale = jnp.clip(jnp.exp(logp / tau), floor, 1.0)
        return jax.lax.stop_gradient(scale) * -logp

    return objective_of(token_loss)
