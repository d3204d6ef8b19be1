"""Distances between distributions over the vocabulary, from their logits.

    jsd = b KL(t | m) + (1 - b) KL(s | m),  m = b t + (1 - b) s       arXiv:2306.13649
    b = 0: KL(t | s), the forward KL; b = 1: KL(s | t), the reverse KL

s is the student, t the teacher. `along` applies a function of both logits chunk by chunk of T, so
that no [B,T,V] array is kept for the backward pass.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def jsd(student, teacher, *, beta: float, temperature: float = 1.0) -> jax.Array:
    """Compute the generalised Jensen-Shannon divergence [...] of logits [..., V]."""
    s = jax.nn.log_softmax(student / temperature)
    t = jax.nn.log_softmax(teacher / temperature)
    if beta == 0:
        return kl(t, s)
    if beta == 1:
        return kl(s, t)
    mixture = jnp.logaddexp(t + math.log(beta), s + math.log1p(-beta))
    return beta * kl(t, mixture) + (1 - beta) * kl(s, mixture)


def kl(p, q) -> jax.Array:
    """Compute KL(p | q) [...] of log-probabilities [..., V]."""
    return (jnp.exp(p) * (p - q)).sum(-1)


def entropy(logits) -> jax.Array:
    """Compute the entropy [...] in nats of logits [..., V]."""
    logp = jax.nn.log_softmax(logits)
    return -(jnp.exp(logp) * logp).sum(-1)


def along(function: Callable, first, second, *, chunk: int) -> jax.Array:
    """Apply `function(logits, logits) -> [...]` to two models' logits, chunk by chunk.

    first, second: (hidden states [B,T,D], output embedding [V,D]). Returns [B,T] float32; the
    logits are made again in the backward pass.
    """
    T = first[0].shape[1]
    chunk = min(chunk, T)
    cut = lambda x: _chunks(jnp.pad(x, ((0, 0), (0, -T % chunk), (0, 0))), chunk)

    @jax.checkpoint
    def one(x_BCD, y_BCD):
        return function(_logits(x_BCD, first[1]), _logits(y_BCD, second[1]))

    found = jax.lax.map(lambda xs: one(*xs), (cut(first[0]), cut(second[0])))
    return found.swapaxes(0, 1).reshape(found.shape[1], -1)[:, :T]


def _chunks(x_BTD, chunk: int):
    B, _, D = x_BTD.shape
    return x_BTD.reshape(B, -1, chunk, D).swapaxes(0, 1)


def _logits(x, w_VD):
    return (x @ w_VD.T).astype(jnp.float32)
