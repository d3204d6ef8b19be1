"""Soft caps of scores and logits, c tanh(z / c) (arXiv:2408.00118); a cap of None is no cap."""

import jax
import jax.numpy as jnp


def apply(z: jax.Array, cap: float | None) -> jax.Array:
    """Compute cap * tanh(z / cap)."""
    return z if cap is None else cap * jnp.tanh(z / cap)


def slope(y: jax.Array, cap: float | None) -> jax.Array | float:
    """Compute the derivative of `apply` where its value is `y`."""
    # By the value, tanh' = 1 - tanh^2, so that whoever kept the capped score needs no second array.
    return 1.0 if cap is None else 1 - jnp.square(y / cap)
