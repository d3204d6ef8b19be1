"""LoHa (arXiv:2108.06098): the elementwise product of two low-rank maps.

    w' = w + s * (a1 b1) . (a2 b2)          s = alpha / R, factors lettered as LoRA's

The product of two maps of rank R has rank R^2 at most: it is the low-rank map whose factors are the
products of all pairs of columns (rows), (a1 x a2) (b1 x b2). Where R^2 is small beside the weight,
`apply` is LoRA's with these. b2 starts at zero, the others normal.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters import lora
from ftjax.adapters.lib import matrix, protocol
from ftjax.core import einsum
from ftjax.core.typed import Count, Positive
from ftjax.ops import products

EXAMPLE = dict(rank=4, alpha=8.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoHa(protocol.Adapter):
    """Factors a1, a2 (contracted letters, R) and b1, b2 (R, kept letters); scale s, a scalar."""

    a1: jax.Array
    b1: jax.Array
    a2: jax.Array
    b2: jax.Array
    scale: jax.Array

    FROZEN: ClassVar = ("scale",)
    PADS: ClassVar = True

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w + s * (a1 b1) . (a2 b2)."""
        one = lambda a, b: products.einsum(einsum.lora(equation).weight, a, b)
        return w + (self.scale * one(self.a1, self.b1) * one(self.a2, self.b2)).astype(w.dtype)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply the low-rank map of rank R^2 where that is less work than a dense one."""
        rank = self.a1.shape[-1] ** 2
        if not matrix.low(equation, w.shape, rank):
            return super().apply(equation, x, w, key)
        # The rank is the last letter of a and the first of b, whatever else they share.
        a = _pairs(self.a1, self.a2, self.a1.ndim - 1)
        return lora.LoRA(a, _pairs(self.b1, self.b2, 0), self.scale).apply(equation, x, w)

    def axes(self, equation: str) -> "LoHa":
        """Letters of the factors; the scale has none."""
        e = einsum.lora(equation)
        return LoHa(e.a, e.b, e.a, e.b, "")


def _pairs(first: jax.Array, second: jax.Array, axis: int) -> jax.Array:
    """Multiply every slice along `axis` of one array with every slice of the other."""
    product = jnp.expand_dims(first, axis + 1) * jnp.expand_dims(second, axis)
    return product.reshape(*first.shape[:axis], -1, *first.shape[axis + 1 :])


def make(*, rank: Count, alpha: Positive):
    """Make the initialiser of LoHa adapters, float32 whatever the base's dtype.

    Raises:
      ValueError: the rank is not positive.
    """
    if rank < 1:
        raise ValueError(f"adapter.rank: got {rank}; expected at least 1")

    def init(key: jax.Array, site, w: jax.Array) -> LoHa:
        e = einsum.lora(site.equation)
        known = einsum.sizes(einsum.parse(site.equation).w, w.shape) | {"R": rank}
        keys = jax.random.split(key, 3)
        draw = lambda key, letters: jax.random.normal(key, [known[c] for c in letters], jnp.float32)
        b2 = jnp.zeros([known[c] for c in e.b], jnp.float32)
        a1, b1, a2 = draw(keys[0], e.a), 0.1 * draw(keys[1], e.b), draw(keys[2], e.a)
        return LoHa(a1, b1, a2, b2, jnp.float32(alpha / rank))

    return init
