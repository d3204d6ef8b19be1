"""Distances between distributions over the vocabulary, from their logits.

    jsd = b KL(t | m) + (1 - b) KL(s | m),  m = b t + (1 - b) s       arXiv:2306.13649
    b = 0: KL(t | s), the forward KL; b = 1: KL(s | t), the reverse KL

s is the student, t the teacher. `ops.loss.along` applies a function of both logits chunk by chunk
of T, so that no [B,T,V] array is kept for the backward pass.
"""

import math

import jax
import jax.numpy as jnp

from ftjax.ops import loss

OUT = -1e30  # a logit of no probability; it is finite, so that 0 times a difference of such is 0


def jsd(student, teacher, *, beta: float, temperature: float = 1.0) -> jax.Array:
    """Compute the generalised Jensen-Shannon divergence [...] of logits [..., V]."""
    s = jax.nn.log_softmax(student / temperature)
    t = jax.nn.log_softmax(teacher / temperature)
    # The limits are cases of their own: the mixture's log(beta) is not finite there.
    if beta == 0:
        return kl(t, s)
    if beta == 1:
        return kl(s, t)
    # In logs: a probability below 1e-38 is 0 in float32, and 0 log 0 is NaN.
    mixture = jnp.logaddexp(t + math.log(beta), s + math.log1p(-beta))
    return beta * kl(t, mixture) + (1 - beta) * kl(s, mixture)


def off_target(student, teacher, targets, *, beta: float, temperature: float = 1.0) -> jax.Array:
    """Compute the same of the distributions over all tokens but the target, arXiv:2605.29498.

    Both are normalised without it: how likely the target is does not count, and so the loss on
    the data is not opposed. targets: int [...].
    """
    hide = lambda logits: jnp.where(loss.is_target(targets, logits.shape[-1]), OUT, logits)
    return jsd(hide(student), hide(teacher), beta=beta, temperature=temperature)


def kl(p, q) -> jax.Array:
    """Compute KL(p | q) [...] of log-probabilities [..., V]."""
    # All logs are finite (of softmaxes), so exp(p) = 0 meets a finite difference.
    return (jnp.exp(p) * (p - q)).sum(-1)


def entropy(logits) -> jax.Array:
    """Compute the entropy [...] in nats of logits [..., V]."""
    logp = jax.nn.log_softmax(logits)
    return -(jnp.exp(logp) * logp).sum(-1)
