"""Weights as matrices, and low-rank factors of them in the letters of an equation.

m = matrix("BTD,DNH->BTNH", w)        [D, N H]; shared letters such as experts stay in front
a, b = factors("BTD,DNH->BTNH", w.shape, u, v)     u [D, R], v [R, N H] -> DR and RNH
"""

import jax
import jax.numpy as jnp

from ftjax.core import einsum
from ftjax.ops import decompositions


def sides(equation: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Count what one layer's weight takes in and gives out."""
    e = einsum.parse(equation)
    sizes = einsum.sizes(e.w, shape)
    return einsum.size(e.contracted, sizes), einsum.size(e.kept, sizes)


def matrix(equation: str, w: jax.Array) -> jax.Array:
    """View one layer's weight as [shared.., in, out]."""
    e = einsum.parse(equation)
    sizes = einsum.sizes(e.w, w.shape)
    # A transposition; it multiplies nothing, so no precision is asked for.
    moved = jnp.einsum(f"{e.w}->{e.shared + e.contracted + e.kept}", w)
    return moved.reshape([*(sizes[c] for c in e.shared), *sides(equation, w.shape)])


def factors(equation: str, shape: tuple[int, ...], a: jax.Array, b: jax.Array):
    """View a [shared.., in, R] and b [shared.., R, out] in the letters of `einsum.lora`."""
    e, letters = einsum.parse(equation), einsum.lora(equation)
    sizes = einsum.sizes(e.w, shape) | {"R": a.shape[-1]}
    own = e.shared + "R" + e.kept
    b = jnp.einsum(f"{own}->{letters.b}", b.reshape([sizes[c] for c in own]))
    return a.reshape([sizes[c] for c in letters.a]), b


def triplets(m: jax.Array, kept: slice) -> tuple[jax.Array, jax.Array]:
    """Take some singular triplets of [.., in, out]: a b is their sum, split evenly."""
    # LAPACK knows no bfloat16, and small singular values would drown in its rounding.
    u, s, v = decompositions.svd(m.astype(jnp.float32))
    # Split evenly, a and b have equal norms, and neither gradient dwarfs the other.
    root = jnp.sqrt(s[..., kept])
    return u[..., :, kept] * root[..., None, :], root[..., :, None] * v[..., kept, :]
