"""Losses of a margin: how far one answer lies above another, in any measure of it.

    sigmoid   -(1 - e) log sigmoid(b m) - e log sigmoid(-b m)      e: label smoothing
    hinge     max(0, 1 - b m)                                      SLiC, arXiv:2305.10425
    squared   (m - 1 / (2 b))^2                                    IPO, arXiv:2310.12036

DPO applies them to log-ratios, CPO and SimPO to plain log-probabilities, a reward model to scores.
"""

import jax
import jax.numpy as jnp


def sigmoid(margin, *, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """Score margins by the logistic loss; smoothing says how many labels may be flipped."""
    right, wrong = jax.nn.log_sigmoid(beta * margin), jax.nn.log_sigmoid(-beta * margin)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def hinge(margin, *, beta: float) -> jax.Array:
    """Ask for a margin of 1 / beta and no more."""
    return jax.nn.relu(1 - beta * margin)


def squared(margin, *, beta: float) -> jax.Array:
    """Ask for a margin of exactly 1 / (2 beta)."""
    return jnp.square(margin - 1 / (2 * beta))
