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
import numpy as np

from ftjax.adapters.lib import matrix, protocol, rotation
from ftjax.adapters.peft.format import Format
from ftjax.core import einsum
from ftjax.core.typed import Count, Natural
from ftjax.ops import linear

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
        size = _size(self.q)
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
        return linear.contract(equation, turned.reshape(x.shape), w)

    def axes(self, equation: str) -> "OFT":
        """Letters of q: only the shared ones have a name."""
        return OFT(einsum.parse(equation).shared + "RR", self.terms)


def _size(q: jax.Array) -> int:
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


# -- PEFT's files ----------------------------------------------------------------------------------


class OftFormat(Format):
    """A tensor oft_R.weight (blocks, b(b-1)/2)."""

    peft_type, kinds = "OFT", (OFT,)
    keys = frozenset({
        "block_share", "num_cayley_neumann_terms", "oft_block_size", "r", "use_cayley_neumann",
        # Without effect on what the tensors mean:
        "eps", "fan_in_fan_out", "init_weights", "module_dropout",
    })  # fmt: skip
    required = frozenset({"oft_block_size", "r"})

    def read(self, config):
        """Read the size or the number of blocks, and which series makes a rotation of them."""
        terms = config.get("num_cayley_neumann_terms", TERMS)
        series = config.get("use_cayley_neumann", False)  # older files have no such key
        return dict(
            block=config["oft_block_size"], count=config["r"],
            share=bool(config.get("block_share")), terms=max(terms, 4) if series else 0,
        )  # fmt: skip

    def write(self, layers, hyper):
        """Write the size or the number of blocks, and which series makes a rotation of them."""
        one = next(iter(layers.values()))
        return {
            "bias": "none",
            "block_share": bool(hyper.get("share", False)),
            "coft": False,
            "eps": 6e-05,
            "fan_in_fan_out": False,
            "init_weights": True,
            "module_dropout": 0.0,
            "num_cayley_neumann_terms": one.terms or TERMS,
            "oft_block_size": hyper.get("block", _size(one.q)),
            "r": hyper.get("count", 0),
            "use_cayley_neumann": one.terms > 0,
        }

    def shapes(self, module, hyper):
        """Give (blocks, b(b-1)/2)."""
        size = (
            rotation.divisor(module.inputs, hyper["block"]) if hyper["block"]
            else module.inputs // rotation.divisor(module.inputs, hyper["count"])
        )  # fmt: skip
        count = 1 if hyper["share"] else module.inputs // size
        return {"oft_R.weight": (count, size * (size - 1) // 2)}

    def from_torch(self, module, hyper, tensors):
        """Take the triangles as they are."""
        return OFT(tensors["oft_R.weight"], hyper["terms"])

    def to_torch(self, module, adapter):
        """Give the triangles as they are."""
        return {"oft_R.weight": adapter.q}

    def trim(self, adapter):
        """Leave out a layer that is not adapted."""
        return adapter if np.any(adapter.q) else None


PEFT = OftFormat()
