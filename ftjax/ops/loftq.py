"""A quantised weight with a low-rank correction of what it lost, LoftQ (arXiv:2310.08659).

    w ~ q + a b,    q = quantise(w - a b),    a b = the largest R singular triplets of w - q

The two are found in turn, from a b = 0 on. Rounding is no projection, so a turn may make things
worse: the best of all turns is kept. After one turn q is what the quantiser alone would make of w.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.core import einsum, tree
from ftjax.ops import lowrank, products, quantize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Corrected(quantize.Quantized):
    """`weight` in few bits; float32 factors `a` (contracted letters, R) and `b` (R, kept)."""

    weight: quantize.Quantized
    a: jax.Array
    b: jax.Array
    equation: str = dataclasses.field(metadata=dict(static=True))

    def dequantize(self, dtype) -> jax.Array:
        """Compute q + a b."""
        # The correction is smaller than a step of bfloat16 at the weight: rounded once, at the end.
        return (self.weight.dequantize(jnp.float32) + self.product).astype(dtype)

    @property
    def product(self) -> jax.Array:
        """Compute a b, of all layers where they are stacked."""
        e = einsum.lora(self.equation)
        one = lambda a, b: products.einsum(e.weight, a, b)
        return (jax.vmap(one) if self.a.ndim > len(e.a) else one)(self.a, self.b)

    def axes(self, letters: str) -> "Corrected":
        """Those of the weight, and of the factors."""
        e = einsum.lora(self.equation)
        front = letters.removesuffix(einsum.parse(self.equation).w)
        own = self.weight.axes(letters)
        return dataclasses.replace(self, weight=own, a=front + e.a, b=front + e.b)


def over(
    quantizer: Callable[[jax.Array], quantize.Quantized], equation: str, *, rank: int,
    iterations: int,
) -> Callable[[jax.Array], Corrected]:  # fmt: skip
    """Make a quantiser of one layer's weight that keeps the largest part of what is lost."""

    def correct(w: jax.Array) -> Corrected:
        w = w.astype(jnp.float32)
        turn = functools.partial(_turn, quantizer, equation, w, rank=rank)
        # From a b = 0: the first turn is what the quantiser makes of w itself, so that no run ends
        # worse.
        found, least = turn(jnp.zeros_like(w))
        best = found
        for _ in range(iterations - 1):
            found, error = turn(found.product)
            # Chosen by value inside of the program: it is traced once for all layers under vmap.
            pick = functools.partial(jnp.where, error < least)
            best, least = jax.tree.map(pick, (found, error), (best, least))
        return best

    return correct


def _turn(quantizer, equation: str, w, product, *, rank: int) -> tuple[Corrected, jax.Array]:
    """Quantise what the product leaves, and fit what that leaves; returns the squared error too."""
    q = quantizer(w - product)
    rest = lowrank.matrix(equation, w - q.dequantize(jnp.float32))
    a, b = lowrank.factors(equation, w.shape, *lowrank.triplets(rest, slice(None, rank)))
    found = Corrected(q, a, b, equation)
    return found, jnp.square(w - found.dequantize(jnp.float32)).sum()


def part(weights: Any) -> tuple[Any, dict[str, tuple[jax.Array, jax.Array]]]:
    """Take a tree of weights apart: without corrections, and their factors (a, b) by path."""
    inside = lambda x: isinstance(x, Corrected)
    found = jax.tree_util.tree_flatten_with_path(weights, is_leaf=inside)[0]
    factors = {tree.path_name(keys): (x.a, x.b) for keys, x in found if inside(x)}
    bare = lambda x: x.weight if inside(x) else x
    return jax.tree.map(bare, weights, is_leaf=inside), factors
