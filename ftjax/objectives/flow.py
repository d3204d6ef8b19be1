"""FLOW (arXiv:2502.02797): examples that the base finds hard count less.

    loss = sum_i s_i sum_t w_t [-log p_t] / sum_i s_i sum_t w_t,        s_i = exp(-l_i / tau)

l_i is the base's mean loss over the targets of example i, in nats per token. The base is the
reference, and no gradient goes through it. As tau grows the weights become 1 and the loss the plain
one: from 1e9 on to the bit.
"""

import jax
import jax.numpy as jnp

from ftjax.core.mean import Mean
from ftjax.core.typed import Positive
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(tau=3.0)
SPEC = Spec(data="tokens", reference=True)


def make(*, tau: Positive):
    """Make the objective.

    tau: nats of the base's loss over which an example's weight falls by e. The paper takes the
    median over the data; an evaluation `nll` of them before the first step is near it.
    """

    def objective(policy, reference, batch, key):
        weights = batch["weights"][..., 1:]
        losses = _by_example(-reference.logps(batch), weights, batch["segments"][..., 1:])
        own = weights * jax.lax.stop_gradient(jnp.exp(-losses / tau))
        found = policy.total(lambda logp, logz, mean: -logp, batch, own, key)
        nll = Mean.of(-found.logp, weights)
        return {"loss": Mean(found.value, own.sum()), "nll": nll}

    return objective


def _by_example(values, weights, segments) -> jax.Array:
    """Give each token the weighted mean of its example, which is a segment of a row [B, T]."""
    count = segments.shape[-1] + 2  # a row has no more segments, and 0 is padding

    def of_row(values, weights, segments):
        add = lambda x: jax.ops.segment_sum(x, segments, count)
        return (add(values * weights) / jnp.maximum(add(weights), 1e-30))[segments]

    return jax.vmap(of_row)(values, weights, segments)
