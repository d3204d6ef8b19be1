"""Exponential moving average of the trainables: ema <- decay * ema + (1 - decay) * params.

It starts at the parameters themselves, so there is no bias to correct, and it is kept in float32
whatever the parameters are: at decay 0.999 a bfloat16 average would never move.
"""

import jax
import jax.numpy as jnp

Tree = dict


def init(params: Tree) -> Tree:
    """Return a float32 copy of `params`; the buffers are its own, so both trees can be donated."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.promote_types(p.dtype, jnp.float32)), params)


def update(ema: Tree, params: Tree, *, decay: jax.typing.ArrayLike) -> Tree:
    """Move the average one step towards `params`."""
    # In this form, unlike optax.incremental_update's, the average of what stays put stays put to
    # the bit, at any decay.
    return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p.astype(e.dtype) - e), ema, params)


def cast(ema: Tree, params: Tree) -> Tree:
    """Return the average in the dtypes of `params`, ready to evaluate in their place."""
    return jax.tree.map(lambda e, p: e.astype(p.dtype), ema, params)
