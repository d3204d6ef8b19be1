"""IA3 (arXiv:2205.05638): rescales what a linear map puts out or takes in, by a learned vector.

    w' = w * gain    over the kept letters: attention's keys and values
    w' = gain * w    over the contracted ones: maps that read the feed-forward layer's hidden units

The gain starts at one. The paper adapts blocks/attn/k, blocks/attn/v and blocks/mlp/down.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import matrix, protocol
from ftjax.core import einsum
from ftjax.ops import fast, remat

EXAMPLE = dict(inputs="F")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IA3(protocol.Adapter):
    """A gain, over the input's letters if `inward`, else over the output's."""

    gain: jax.Array
    inward: bool = dataclasses.field(metadata=dict(static=True))

    def _letters(self, equation: str) -> str:
        e = einsum.parse(equation)
        return e.shared + (e.contracted if self.inward else e.kept)

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Scale the rows or columns of w."""
        return matrix.scaled(einsum.parse(equation).w, w, self._letters(equation), self.gain)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Scale x or the output; w stays as it is."""
        e, letters = einsum.parse(equation), self._letters(equation)
        if self.inward:
            return fast.contract(equation, matrix.scaled(e.x, x, letters, self.gain), w)
        # The gain's gradient needs the unscaled output, which costs a whole map to make again.
        y = remat.keep(fast.contract(equation, x, w))
        return matrix.scaled(e.y, y, letters, self.gain)

    def axes(self, equation: str) -> "IA3":
        """Letters of the gain."""
        return IA3(self._letters(equation), self.inward)


def make(*, inputs: str = "F"):
    """Make the initialiser; a map that contracts one of the letters `inputs` scales its input."""

    def init(key: jax.Array, site, w: jax.Array) -> IA3:
        e = einsum.parse(site.equation)
        inward = any(c in inputs for c in e.contracted)
        known = einsum.sizes(e.w, w.shape)
        shape = [known[c] for c in e.shared + (e.contracted if inward else e.kept)]
        return IA3(jnp.ones(shape, jnp.float32), inward)

    return init
