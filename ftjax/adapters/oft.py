"""OFT, orthogonal fine-tuning (arXiv:2306.07280): rotates the input, in blocks.

    w' = w R^T              w as a matrix (out, in), R block-diagonal orthogonal: y = (x R) w

Each block of R is made of a skew-symmetric Q, whose upper triangle is what trains and starts at
zero. `terms=0` is Cayley's transform (I - Q) (I + Q)^-1; `terms=5` its quick series, which starts
from the transposed (I + Q) (I - Q)^-1, as PEFT has it: the same Q turns the other way.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import matrix, protocol, rotation
from ftjax.core import einsum
from ftjax.core.typed import Count, Natural
from ftjax.ops import fast

EXAMPLE = dict(block=4, terms=0)
TERMS = 5  # of PEFT's series, unless a file says otherwise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OFT(protocol.Adapter):
    """Upper triangles q [blocks, b(b-1)/2]; a single one of them serves all blocks."""

    q: jax.Array
    terms: int = dataclasses.field(metadata=dict(static=True))

    def blocks(self, summed: int) -> jax.Array:
        """Make the rotations [blocks, b, b] of an input of this size."""
        size = block_size(self.q)
        q = rotation.skew(self.q, size)
        made = rotation.neumann(q, self.terms) if self.terms else rotation.cayley(q)
        return jnp.broadcast_to(made, (*q.shape[:-3], summed // size, size, size))

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w R^T."""
        rows = matrix.flatten(equation, w)
        turned = rotation.rotate(rows, self.blocks(rows.shape[-1]).mT)
        return matrix.unflatten(equation, turned, w.shape)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute (x R) w."""
        if not matrix.plain(equation):
            return super().apply(equation, x, w, key)
        rows = matrix.rows(equation, x)
        turned = rotation.rotate(rows, self.blocks(rows.shape[-1]))
        return fast.contract(equation, turned.reshape(x.shape), w)

    def axes(self, equation: str) -> "OFT":
        """Letters of q: only the shared ones have a name."""
        return OFT(einsum.parse(equation).shared + "RR", self.terms)


def block_size(q: jax.Array) -> int:
    """Find b of b(b-1)/2."""
    return (1 + math.isqrt(1 + 8 * q.shape[-1])) // 2


def make(*, block: Count, terms: Natural = 0, share: bool = False):
    """Make the initialiser of OFT adapters, float32 whatever the base's dtype.

    Args:
      block: rows of a block; where it does not divide an input, the nearest divisor is taken.
      terms: 0 for exact rotations, or the number of terms of the series.
      share: one rotation for all blocks.

    Raises:
      ValueError: the block or the number of terms is too small.
    """
    if block < 2 or terms in (1, 2) or terms < 0:
        raise ValueError(
            f"adapter: got block={block}, terms={terms}; expected block >= 2 and terms 0 or >= 3"
        )

    def init(key: jax.Array, site, w: jax.Array) -> OFT:
        lead, _, summed = matrix.sizes(site.equation, w.shape)
        size = rotation.divisor(summed, block)
        count = 1 if share else summed // size
        return OFT(jnp.zeros((*lead, count, size * (size - 1) // 2), jnp.float32), terms)

    return init
