"""What a mask adds to the scores of attention before the softmax."""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a fully masked row gives an average and not NaN


def bias(mask_BTS: jax.Array, group: int) -> jax.Array:
    """Make 0 where a query sees a key and MASKED elsewhere: [B,1,M,S] float32.

    group: how many rows of scores, one after another, are of one position; M = T * group.
    """
    return jnp.repeat(jnp.where(mask_BTS, 0.0, MASKED), group, axis=1)[:, None]
