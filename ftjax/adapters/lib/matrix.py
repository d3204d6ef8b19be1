"""Weights as the matrices that some methods are defined on, and inputs as their rows.

The rows of a weight's matrix are the kept letters, flattened, and its columns the contracted ones,
as torch has them; letters that x, w and y share (experts) stay in front:

    BTD,DNH->BTNH   [N*H, D]        BTNH,NHD->BTD   [D, N*H]        EBD,EDF->EBF   [E, F, D]
"""

import jax

from ftjax.core import einsum


def sizes(equation: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
    """Compute the sizes of the shared letters, of the output and of the input."""
    e = einsum.parse(equation)
    known = einsum.sizes(e.w, shape)
    lead = tuple(known[c] for c in e.shared)
    return lead, einsum.size(e.kept, known), einsum.size(e.contracted, known)


def flatten(equation: str, w: jax.Array) -> jax.Array:
    """Bring a weight into the form [shared.., out, in]."""
    e = einsum.parse(equation)
    lead, made, summed = sizes(equation, w.shape)
    moved = w.transpose([e.w.index(c) for c in e.shared + e.kept + e.contracted])
    return moved.reshape(*lead, made, summed)


def unflatten(equation: str, matrix: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Bring [shared.., out, in] into the form of the weight, of this shape."""
    e = einsum.parse(equation)
    known, order = einsum.sizes(e.w, shape), e.shared + e.kept + e.contracted
    return matrix.reshape([known[c] for c in order]).transpose([order.index(c) for c in e.w])


def plain(equation: str) -> bool:
    """Return whether inputs are rows as they lie: nothing shared, the contracted letters last."""
    e = einsum.parse(equation)
    return not e.shared and e.x.endswith(e.contracted)


def low(equation: str, shape: tuple[int, ...], rank: int) -> bool:
    """Return whether a map through a rank is less work than the gradient of a dense weight.

    Forward and backward, the map takes two products of its factors more than that gradient's one.
    """
    _, made, summed = sizes(equation, shape)
    return 2 * rank * (made + summed) < made * summed


def rows(equation: str, x: jax.Array) -> jax.Array:
    """View an input as [.., in], where the equation is plain."""
    behind = len(einsum.parse(equation).contracted)
    return x.reshape(*x.shape[: x.ndim - behind], -1)


def scaled(letters: str, array: jax.Array, own: str, factor: jax.Array) -> jax.Array:
    """Multiply an array by a factor that has some of its letters."""
    order = [c for c in letters if c in own]
    known = einsum.sizes(own, factor.shape)
    moved = factor.transpose([own.index(c) for c in order])
    return array * moved.reshape([known.get(c, 1) for c in letters]).astype(array.dtype)
