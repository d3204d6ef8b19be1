"""LoKr (arXiv:2212.10650): a Kronecker product of two small matrices.

    w' = w + s * kron(w1, w2)               s = alpha / R, on the weight as a matrix (out, in)

With out = o1 o2 and in = i1 i2, w1 is (o1, i1) and w2 (o2, i2). The factors of a size are the ones
nearest each other, or `factor` and the rest where it divides; w1 has the first. w2 is itself a
product of rank R where R is less than half of its larger side; so is w1 with `both`. w1 starts at
zero.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import matrix, protocol
from ftjax.core import einsum
from ftjax.core.typed import Count, Positive
from ftjax.ops import fast, products

EXAMPLE = dict(rank=2, alpha=4.0)
Factor = tuple[jax.Array, ...]  # a matrix, or two that multiply to it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoKr(protocol.Adapter):
    """Factors w1 and w2, each one matrix or the two that multiply to it; scale s, a scalar."""

    w1: Factor
    w2: Factor
    scale: jax.Array

    FROZEN: ClassVar = ("scale",)

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w + s * kron(w1, w2)."""
        lead, made, summed = matrix.sizes(equation, w.shape)
        kron = products.einsum("...ab,...cd->...acbd", _whole(self.w1), _whole(self.w2))
        delta = matrix.unflatten(equation, kron.reshape(*lead, made, summed), w.shape)
        return w + (self.scale * delta).astype(w.dtype)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute x w + s * w1 x w2^T, with x as a matrix (i1, i2) for each token."""
        if not matrix.plain(equation):
            return super().apply(equation, x, w, key)
        e = einsum.parse(equation)
        known = einsum.sizes(e.w, w.shape)
        i1 = self.w1[-1].shape[-1]
        moved = matrix.rows(equation, x)
        lead = moved.shape[:-1]
        inner = moved.reshape(*lead, i1, -1)
        for factor in reversed(self.w2):
            inner = jnp.matmul(inner, factor.T.astype(x.dtype), precision=products.precision(x))
        w1 = (self.scale * _whole(self.w1)).astype(x.dtype)
        delta = jnp.einsum("...ic,oi->...oc", inner, w1, precision=products.precision(x))
        return fast.contract(equation, x, w) + delta.reshape(*lead, *(known[c] for c in e.kept))

    def axes(self, equation: str) -> "LoKr":
        """Letters of the factors: only the shared ones have a name; the scale has none."""
        own = einsum.parse(equation).shared + "RR"
        return LoKr((own,) * len(self.w1), (own,) * len(self.w2), "")


def _whole(factor: Factor) -> jax.Array:
    return factor[0] if len(factor) == 1 else jnp.matmul(*factor, precision=products.HIGHEST)


def split(size: int, factor: int) -> tuple[int, int]:
    """Split a size into two factors as PEFT does.

    A factor that divides comes first, also where it is the larger of the two; else the smaller is
    the first, of at most `factor`. -1 makes them as near as they can be.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = math.isqrt(size) if factor < 0 else min(factor, math.isqrt(size))
    small = max(n for n in range(1, most + 1) if size % n == 0)
    return small, size // small


def shapes(made: int, summed: int, *, rank: int, factor: int, both: bool) -> tuple:
    """Compute the shapes of the matrices of w1 and of w2 for a weight (out, in)."""
    (o1, o2), (i1, i2) = split(made, factor), split(summed, factor)
    first = _factored(o1, i1, rank) if both else ((o1, i1),)
    return first, _factored(o2, i2, rank)


def _factored(rows: int, columns: int, rank: int) -> tuple:
    few = rank < max(rows, columns) / 2
    return ((rows, rank), (rank, columns)) if few else ((rows, columns),)


def make(*, rank: Count, alpha: Positive, factor: int = -1, both: bool = False):
    """Make the initialiser of LoKr adapters, float32 whatever the base's dtype.

    Raises:
      ValueError: the rank is not positive, or the factor neither positive nor -1.
    """
    if rank < 1:
        raise ValueError(f"adapter.rank: got {rank}; expected at least 1")
    if factor < 1 and factor != -1:
        raise ValueError(f"adapter.factor: got {factor}; expected a positive size, or -1")

    def init(key: jax.Array, site, w: jax.Array) -> LoKr:
        lead, made, summed = matrix.sizes(site.equation, w.shape)
        first, second = shapes(made, summed, rank=rank, factor=factor, both=both)
        keys = jax.random.split(key, 3)
        draw = lambda key, shape: jax.random.uniform(
            key, (*lead, *shape), jnp.float32, -(shape[1] ** -0.5), shape[1] ** -0.5
        )
        w1 = (jnp.zeros((*lead, *first[0])), *(draw(keys[0], shape) for shape in first[1:]))
        w2 = tuple(map(draw, keys[1:], second))
        return LoKr(w1, w2, jnp.float32(alpha / rank))

    return init
