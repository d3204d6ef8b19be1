"""Losses of rankings, by name: pure functions of scores [B,K,S], the best answer first along K.

    plackett_luce   -sum_i log( e^s_i / sum_{j >= i} e^s_j )     the best, then the best left
    all_pairs       mean over i < j of -log sigmoid(s_i - s_j)                    arXiv:2203.02155

`there` is 1 where an answer is and 0 where an example has fewer than K. With two answers both are
the usual loss of a pair.
"""

import jax
import jax.numpy as jnp

LOW = -1e30  # a score that no answer has: exp of it is 0, and its difference to others is finite


def plackett_luce(scores_BKS, there_BKS) -> jax.Array:
    """Score the whole order as one draw without replacement; returns [B,S]."""
    scores = jnp.where(there_BKS > 0, scores_BKS, LOW)
    # From the back: all denominators in one pass.
    rest = jax.lax.cumlogsumexp(scores, axis=1, reverse=True)
    return jnp.where(there_BKS > 0, rest - scores, 0).sum(1)


def all_pairs(scores_BKS, there_BKS) -> jax.Array:
    """Average the loss of a pair over all pairs of an example; returns [B,S]."""
    K = scores_BKS.shape[1]
    margin = scores_BKS[:, :, None] - scores_BKS[:, None]
    both = there_BKS[:, :, None] * there_BKS[:, None]
    both = both * jnp.triu(jnp.ones((K, K)), 1)[:, :, None]
    losses = (-jax.nn.log_sigmoid(margin) * both).sum((1, 2))
    return losses / jnp.maximum(both.sum((1, 2)), 1)
