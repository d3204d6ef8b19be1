"""BOFT (arXiv:2311.06243): rotates the input by a butterfly of block rotations, then scales.

    w' = s * (w M^T)        w as a matrix (out, in), M = B_m .. B_1, s over the output

Every B_i turns blocks of units that lie 2^(i-1) half blocks apart, so that m factors mix blocks of
b 2^(m-1) units; each block is Cayley's transform of the skew part of a matrix that starts at zero.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import matrix, protocol, rotation
from ftjax.core import einsum
from ftjax.core.typed import Count
from ftjax.ops import fast, remat

EXAMPLE = dict(block=4, factors=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BOFT(protocol.Adapter):
    """Matrices q [factors, blocks, b, b]; the gain, over the kept letters."""

    q: jax.Array
    gain: jax.Array

    def _rotations(self) -> list[jax.Array]:
        return [self.q[..., i, :, :, :] for i in range(self.q.shape[-4])]

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute s * (w M^T)."""
        rows, e = matrix.flatten(equation, w), einsum.parse(equation)
        for i, q in enumerate(self._rotations()):
            rows = _turn(rows, _blocks(q).mT, i)
        turned = matrix.unflatten(equation, rows, w.shape)
        return matrix.scaled(e.w, turned, e.shared + e.kept, self.gain)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute s * ((x M) w)."""
        if not matrix.plain(equation):
            return super().apply(equation, x, w, key)
        rows, e = matrix.rows(equation, x), einsum.parse(equation)
        for i, q in reversed(list(enumerate(self._rotations()))):
            rows = _turn(rows, _blocks(q), i)
        y = remat.keep(fast.contract(equation, rows.reshape(x.shape), w))  # as in IA3
        return matrix.scaled(e.y, y, e.kept, self.gain)

    def axes(self, equation: str) -> "BOFT":
        """Letters of q, of which only the shared ones have a name, and of the gain."""
        e = einsum.parse(equation)
        return BOFT(e.shared + "RRRR", e.shared + e.kept)


def _blocks(q: jax.Array) -> jax.Array:
    return rotation.cayley((q - q.mT) / 2)


def _turn(rows: jax.Array, blocks: jax.Array, level: int) -> jax.Array:
    """Rotate rows [.., in] in blocks of units that lie 2^level half blocks apart."""
    if level == 0:
        return rotation.rotate(rows, blocks)
    half, pairs = blocks.shape[-1] // 2, 2**level
    apart = rows.reshape(*rows.shape[:-1], -1, 2, pairs, half).swapaxes(-2, -3)
    turned = rotation.rotate(apart.reshape(rows.shape), blocks)
    back = turned.reshape(*rows.shape[:-1], -1, pairs, 2, half).swapaxes(-2, -3)
    return back.reshape(rows.shape)


def make(*, block: Count, factors: Count = 1):
    """Make the initialiser of BOFT adapters, float32 whatever the base's dtype.

    Args:
      block: rows of a block; where it does not divide an input, the nearest divisor is taken.
      factors: of the butterfly; more than one needs even blocks, and inputs that hold
        block * 2^(factors - 1) units a whole number of times.

    Raises:
      ValueError: the block or the factors are too few, or do not fit an input.
    """
    if block < 2 or factors < 1:
        raise ValueError(
            f"adapter: got block={block}, factors={factors}; expected block >= 2, factors >= 1"
        )

    def init(key: jax.Array, site, w: jax.Array) -> BOFT:
        lead, _, summed = matrix.sizes(site.equation, w.shape)
        size = rotation.divisor(summed, block)
        if factors > 1 and (size % 2 or summed % (size * 2 ** (factors - 1))):
            raise ValueError(
                f"adapter.factors: got {factors} for blocks of {size} and an input of {summed}; "
                "expected even blocks of which 2^(factors-1) divide the input; use fewer factors"
            )
        e = einsum.parse(site.equation)
        known = einsum.sizes(e.w, w.shape)
        q = jnp.zeros((*lead, factors, summed // size, size, size), jnp.float32)
        return BOFT(q, jnp.ones([known[c] for c in e.shared + e.kept], jnp.float32))

    return init
