"""Losses of a token whose gradient improves the policy, from the ratio to the sampling policy.

With r = exp(log-ratio) and the advantage A of a token or of its whole row:

    clip    -min(r A, clip(r, 1 - low, 1 + high) A)                     PPO, arXiv:1707.06347
    cispo   -sg(min(r, high)) A log p                                   arXiv:2506.13585
    sapo    -(4 / tau) sigmoid(tau (r - 1)) A                           arXiv:2511.20347
    vespo   -sg(e^lambda w^k e^(-lambda w)) A log p,  w = r of the row  arXiv:2602.10693
    gmpo    -exp(mean of the row's clipped log-ratios) A                arXiv:2507.20673

Each function here takes the numbers of one method and returns `loss(terms) -> [B, T] or [B, 1]`.
sg is the stop of gradients.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient


class Terms(NamedTuple):
    """What a surrogate sees."""

    logp_BT: jax.Array  # of the policy
    tokens_BT: jax.Array  # log-ratio of every token to the sampling policy
    log_ratio: jax.Array  # the same on the level of importance: [B, T] or [B, 1]
    advantage: jax.Array  # [B, 1] or [B, T]
    mask_BT: jax.Array


def clip(*, low: float = 0.2, high: float = 0.2, delta: float | None = None) -> Callable:
    """Clip the ratio; `delta` also bounds it where the advantage is negative (two-sided)."""

    def loss(terms: Terms):
        ratio, kept = ratio_of(terms), clipped(terms, low=low, high=high)
        ratio = ratio if delta is None else jnp.minimum(ratio, delta)
        return -jnp.minimum(ratio * terms.advantage, kept * terms.advantage)

    return loss


def cispo(*, high: float = 5.0) -> Callable:
    """Weigh the log-probabilities by the ratio, up to `high`: every token keeps a gradient."""

    def loss(terms: Terms):
        weight = stop_gradient(jnp.minimum(ratio_of(terms), high))
        return -weight * terms.advantage * terms.logp_BT

    return loss


def sapo(*, up: float = 1.0, down: float = 1.05) -> Callable:
    """Gate softly; `up` and `down` are temperatures for positive and other advantages."""

    def loss(terms: Terms):
        tau = jnp.where(terms.advantage > 0, up, down)
        # 4 / tau makes the slope at r = 1 that of the ratio itself.
        gate = jax.nn.sigmoid(tau * (ratio_of(terms) - 1)) * 4 / tau
        return -gate * terms.advantage

    return loss


def vespo(
    *, power_up: float = 2.0, rate_up: float = 3.0, power_down: float = 3.0, rate_down: float = 2.0
) -> Callable:
    """Weigh rows by a gamma density of their whole ratio; up and down by the advantage's sign."""

    def loss(terms: Terms):
        # float32 overflows at e^88; at the bounds the weight is as good as 0 already.
        logs = jnp.clip(terms.tokens_BT, -20, 20) * terms.mask_BT
        log_w = jnp.clip(logs.sum(-1, keepdims=True), math.log(1e-8), 20)
        is_up = terms.advantage >= 0
        power = jnp.where(is_up, power_up, power_down)
        rate = jnp.where(is_up, rate_up, rate_down)
        weight = stop_gradient(jnp.exp(rate + power * log_w - rate * jnp.exp(log_w)))
        return -weight * terms.advantage * terms.logp_BT

    return loss


def gmpo(*, low: float = 0.4, high: float = 0.4) -> Callable:
    """Take the geometric mean of a row's ratios, each clipped (in logs) towards the worse."""

    def loss(terms: Terms):
        sign = jnp.sign(terms.advantage)
        logs = jnp.minimum(
            sign * terms.tokens_BT, sign * jnp.clip(terms.tokens_BT, -low, high)
        )  # fmt: skip
        return -jnp.exp(row_mean(sign * logs, terms.mask_BT)) * terms.advantage

    return loss


def ratio_of(terms: Terms) -> jax.Array:
    """Compute the ratio at the level of importance."""
    return jnp.exp(terms.log_ratio)


def clipped(terms: Terms, *, low: float, high: float) -> jax.Array:
    """Keep the ratio between 1 - low and 1 + high."""
    return jnp.clip(ratio_of(terms), 1 - low, 1 + high)


def row_mean(values_BT, mask_BT) -> jax.Array:
    """Average over the tokens of each row, [B, 1]."""
    # A row without sampled tokens fills a batch: 0, and not 0 / 0.
    count = jnp.maximum(mask_BT.sum(-1, keepdims=True), 1)
    return (values_BT * mask_BT).sum(-1, keepdims=True) / count


# -- the level of importance -----------------------------------------------------------------------


def of_token(log_ratio_BT, mask_BT):
    """Compare tokens: each has its own ratio."""
    del mask_BT
    return log_ratio_BT


def of_sequence(log_ratio_BT, mask_BT):
    """Compare rows by the geometric mean of their ratios, [B, 1] (GSPO, arXiv:2507.18071)."""
    return row_mean(log_ratio_BT, mask_BT)


def of_sequence_token(log_ratio_BT, mask_BT):
    """Compare rows, with the gradient of tokens, so that advantages may differ in a row."""
    mean_B1 = stop_gradient(row_mean(log_ratio_BT, mask_BT))
    return mean_B1 + log_ratio_BT - stop_gradient(log_ratio_BT)


def of_whole(log_ratio_BT, mask_BT):
    """Compare rows by the ratio of their whole probabilities, [B, 1]."""
    return (log_ratio_BT * mask_BT).sum(-1, keepdims=True)


IMPORTANCE: Mapping[str, Callable] = {
    "token": of_token,
    "sequence": of_sequence,
    "sequence_token": of_sequence_token,
    "whole": of_whole,
}
