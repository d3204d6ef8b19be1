"""What a log-ratio is worth under an f-divergence to the reference (f-DPO, arXiv:2309.16240).

DPO's reward is f'(pi / pi_ref) up to a constant, here the one that makes it 0 where the two agree;
r = log(pi / pi_ref):

    reverse_kl      r                        forward_kl         1 - e^-r
    js_divergence   log 2 + log sigmoid(r)   alpha_divergence   (e^((a - 1) r) - 1) / (a - 1)
"""

import math

import jax
import jax.numpy as jnp


def reverse_kl(ratio) -> jax.Array:
    """Value a log-ratio by itself: plain DPO."""
    return ratio


def forward_kl(ratio) -> jax.Array:
    """Value it under KL(reference | policy)."""
    # expm1: near r = 0, where every run starts, e^-r - 1 would lose its digits.
    return -jnp.expm1(-ratio)


def js_divergence(ratio) -> jax.Array:
    """Value it under the Jensen-Shannon divergence."""
    return math.log(2) + jax.nn.log_sigmoid(ratio)


def alpha_divergence(ratio, *, alpha: float) -> jax.Array:
    """Value it under an alpha-divergence; alpha -> 1 is the reverse KL."""
    return jnp.expm1((alpha - 1) * ratio) / (alpha - 1)
