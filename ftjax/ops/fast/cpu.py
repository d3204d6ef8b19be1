"""Forms for a CPU alone: how XLA's kernels there like their operands; see `plain` for what they do.

Chosen in `by_platform`. An optimization barrier forbids what a compiler for an accelerator does
better by itself, so no product has one outside of this module.
"""

import jax
import jax.numpy as jnp

from ftjax.ops import products


def transposed_product(x: jax.Array, g: jax.Array) -> jax.Array:
    """Compute (g^T x)^T, for g narrower than x.

    A product with few columns is up to eight times slower than one with few rows.
    """
    # Without the barrier XLA joins the transpose with the product, which is the slow one again.
    return jax.lax.optimization_barrier(products.matmul(g.T, x)).T


def grouped_matmul(x, w_EIO, counts_E: jax.Array, expert_J: jax.Array) -> jax.Array:
    """Multiply block by block: `ragged_dot` computes all experts for all rows on a CPU.

    It takes 7 times as long for 1024 rows of 8 experts, 20 times for 2048 rows of 32.
    """
    del counts_E  # the experts of the blocks say the same
    blocks = x.reshape(expert_J.shape[0], -1, x.shape[-1])
    y = jax.lax.map(lambda one: products.matmul(one[0], w_EIO[one[1]]), (blocks, expert_J))
    return y.reshape(x.shape[0], -1)


def argmax(x_BV: jax.Array) -> jax.Array:
    """Take two plain reductions of a stored array; 0 beside NaN.

    A CPU runs `argmax` one element at a time, and with it whatever makes its operand.
    """
    x_BV = jax.lax.optimization_barrier(x_BV)
    # Not `x == max`, which holds nowhere beside NaN: the place must be one of the vocabulary.
    is_largest_BV = ~(x_BV < x_BV.max(-1, keepdims=True))
    places_V = jnp.arange(x_BV.shape[1], dtype=jnp.int32)
    return jnp.where(is_largest_BV, places_V, x_BV.shape[1]).min(-1)
