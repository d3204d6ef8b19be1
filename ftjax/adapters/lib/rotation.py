"""Rotations of a weight's input that OFT and BOFT are made of.

A skew-symmetric Q gives the rotation R = (I - Q) (I + Q)^-1 (Cayley's transform). A block-diagonal
rotation acts on rows [.., in] block by block, from the right: x' = x R.
"""

import jax
import jax.numpy as jnp

from ftjax.ops import products


def skew(upper: jax.Array, size: int) -> jax.Array:
    """Fill skew-symmetric matrices [.., size, size] from the triangle above their diagonals."""
    above = jnp.triu_indices(size, 1)
    matrix = jnp.zeros((*upper.shape[:-1], size, size), upper.dtype)
    matrix = matrix.at[..., *above].set(upper)
    return matrix - matrix.mT


def cayley(q: jax.Array) -> jax.Array:
    """Compute (I - Q) (I + Q)^-1, exactly orthogonal."""
    eye = jnp.eye(q.shape[-1], dtype=q.dtype)
    return jnp.linalg.solve(eye + q, eye - q)


def neumann(q: jax.Array, terms: int) -> jax.Array:
    """Sum `terms` of I + 2 Q + 2 Q^2 + .. + Q^(terms-1), the series of (I + Q) (I - Q)^-1.

    Not quite orthogonal, and for the same Q the inverse of `cayley`; from three terms on the last
    has no factor two.
    """
    eye = jnp.broadcast_to(jnp.eye(q.shape[-1], dtype=q.dtype), q.shape)
    total, power = eye, q
    for term in range(1, terms):
        total = total + (power if term == terms - 1 and term > 1 else 2 * power)
        power = jnp.matmul(power, q, precision=products.HIGHEST)
    return total


def rotate(rows: jax.Array, blocks: jax.Array) -> jax.Array:
    """Multiply rows [lead.., n, in] by block-diagonal matrices [lead.., blocks, size, size]."""
    count, size = blocks.shape[-3:-1]
    split = rows.reshape(*rows.shape[:-1], count, size)
    exact = dict(precision=products.precision(rows))
    turned = jnp.einsum("...nbi,...bij->...nbj", split, blocks.astype(rows.dtype), **exact)
    return turned.reshape(rows.shape)


def divisor(size: int, wanted: int) -> int:
    """Return the divisor of `size` nearest to `wanted`, the smaller of two."""
    return min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: abs(n - wanted))
