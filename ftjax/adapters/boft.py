"""BOFT (arXiv:2311.06243): rotates the input by a butterfly of block rotations, then scales.

    w' = s * (w M^T)        w as a matrix (out, in), M = B_m .. B_1, s over the output

Every B_i turns blocks of units that lie 2^(i-1) half blocks apart, so that m factors mix blocks of
b 2^(m-1) units; each block is Cayley's transform of the skew part of a matrix that starts at zero.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.adapters.lib import matrix, protocol, rotation
from ftjax.adapters.peft.format import Format
from ftjax.core import einsum
from ftjax.core.typed import Count
from ftjax.ops import linear, remat

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
        y = remat.keep(linear.contract(equation, rows.reshape(x.shape), w))  # as in IA3
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


# -- PEFT's files ----------------------------------------------------------------------------------


class BoftFormat(Format):
    """Tensors boft_R (factors, blocks, b, b) and boft_s (out, 1)."""

    peft_type, kinds = "BOFT", (BOFT,)
    keys = frozenset({
        "boft_block_num", "boft_block_size", "boft_n_butterfly_factor",
        # Without effect on what the tensors mean:
        "boft_dropout", "fan_in_fan_out", "init_weights",
    })  # fmt: skip
    required = frozenset({"boft_block_num", "boft_block_size", "boft_n_butterfly_factor"})

    def read(self, config):
        """Read the size or the number of blocks, and of the butterfly's factors."""
        block, count = config["boft_block_size"], config["boft_block_num"]
        if bool(block) == bool(count):
            raise ValueError(f"boft_block_size={block!r}, boft_block_num={count!r}")
        return dict(block=block, count=count, factors=config["boft_n_butterfly_factor"])

    def write(self, layers, hyper):
        """Write the size or the number of blocks, one for all modules, and of the factors."""
        shapes = {adapter.q.shape for adapter in layers.values()}
        sizes, counts, factors = ({shape[i] for shape in shapes} for i in (-1, -3, -4))
        by_count = bool(hyper.get("count"))
        if len(counts if by_count else sizes) > 1 or len(factors) > 1:
            raise ValueError(
                f"adapters: got BOFT of blocks of {sorted(sizes)}; expected one size, as PEFT has "
                "it; choose an adapter.block that divides all inputs"
            )
        return {
            "bias": "none",
            "boft_block_num": counts.pop() if by_count else 0,
            "boft_block_size": 0 if by_count else sizes.pop(),
            "boft_dropout": 0.0,
            "boft_n_butterfly_factor": factors.pop(),
            "fan_in_fan_out": False,
            "init_weights": True,
        }

    def shapes(self, module, hyper):
        """Give (factors, blocks, b, b) and (out, 1)."""
        size = hyper["block"] or module.inputs // hyper["count"]
        blocks = (hyper["factors"], module.inputs // size, size, size)
        return {"boft_R": blocks, "boft_s": (module.outputs, 1)}

    def from_torch(self, module, hyper, tensors):
        """Take the blocks as they are; unflatten the gain."""
        gain = tensors["boft_s"].reshape([module.sizes[c] for c in module.e.kept])
        return BOFT(tensors["boft_R"], gain)

    def to_torch(self, module, adapter):
        """Give the blocks as they are; flatten the gain."""
        return {"boft_R": adapter.q, "boft_s": adapter.gain.reshape(-1, 1)}

    def trim(self, adapter):
        """Leave out a layer that is not adapted: no rotation, a gain of one."""
        return adapter if np.any(adapter.q) or np.any(adapter.gain != 1) else None

    def absent(self, like):
        """Turn nothing and scale by one."""
        return BOFT(np.zeros_like(like.q), np.ones_like(like.gain))


PEFT = BoftFormat()
