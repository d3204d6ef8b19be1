"""Weight-decomposed low-rank adaptation, DoRA (arXiv:2402.09353): LoRA sets directions, m lengths.

    v = w + s * a b,    w' = m * v / |v|

|v| is the norm over the contracted letters, one per output; m starts as |w|, so that the first
forward pass is the base's. As in the paper's section 4.3, no gradient goes through |v|.

The norm costs no weight-sized array:  |v|^2 = |w|^2 + 2 s <w, a b> + s^2 |a b|^2, where the second
term is b . (a^T w) and the third b^T (a^T a) b.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters import lora
from ftjax.adapters.lib import matrix, protocol
from ftjax.core import einsum
from ftjax.core.typed import Chance, Count, Positive
from ftjax.ops import products, remat

EXAMPLE = dict(rank=4, alpha=8.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DoRA(protocol.Adapter):
    """Factors a and b as in LoRA, lengths m (kept letters), scale s; s = 0 adapts nothing."""

    a: jax.Array
    b: jax.Array
    m: jax.Array
    scale: jax.Array
    dropout: float = dataclasses.field(default=0.0, metadata=dict(static=True))

    FROZEN: ClassVar = ("scale",)
    PADS: ClassVar = True

    @property
    def low(self) -> lora.LoRA:
        """The LoRA that turns w into v."""
        return lora.LoRA(self.a, self.b, self.scale, self.dropout)

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute m * v / |v|."""
        v = self.low.merge(equation, w)
        factor = self._factor(norm(equation, v))
        return matrix.scaled(einsum.parse(equation).w, v, outputs(equation), factor)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute (x v) * m / |v|; dropout acts on the low-rank branch of x v alone."""
        return self._lengthen(equation, self.low.apply(equation, x, w, key), w)

    def apply_alone(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute the same without a weight for each adapter."""
        return self._lengthen(equation, self.low.apply_alone(equation, x, w, key), w)

    def _lengthen(self, equation: str, y: jax.Array, w: jax.Array) -> jax.Array:
        """Multiply outputs x v by m / |v|."""
        factor = remat.keep(self._factor(low_rank_norm(equation, w, self.low)))
        y = remat.keep(y)
        return matrix.scaled(einsum.parse(equation).y, y, outputs(equation), factor)

    def _factor(self, length: jax.Array) -> jax.Array:
        return jnp.where(self.scale == 0, 1.0, self.m / jax.lax.stop_gradient(length))

    def axes(self, equation: str) -> "DoRA":
        """Letters of a and b, and the outputs for m."""
        e = einsum.lora(equation)
        return DoRA(e.a, e.b, outputs(equation), "", self.dropout)


def outputs(equation: str) -> str:
    """Name the letters of a weight that number its outputs."""
    e = einsum.parse(equation)
    return e.shared + e.kept


def norm(equation: str, w: jax.Array) -> jax.Array:
    """Compute the length of every output's weights, float32."""
    e, w = einsum.parse(equation), w.astype(jnp.float32)
    return jnp.sqrt(products.einsum(f"{e.w},{e.w}->{outputs(equation)}", w, w))


def low_rank_norm(equation: str, w: jax.Array, low: lora.LoRA) -> jax.Array:
    """Compute `norm(equation, low.merge(equation, w))` without that weight; no gradient."""
    w, a, b = (jax.lax.stop_gradient(x).astype(jnp.float32) for x in (w, low.a, low.b))
    scale, e, factors = low.scale, einsum.parse(equation), einsum.lora(equation)
    out, again = outputs(equation), lambda letters: letters.replace("R", "Q")
    own = products.einsum(f"{e.w},{e.w}->{out}", w, w)
    through = products.einsum(f"{factors.a},{e.w}->{factors.b}", a, w)
    # Sums, not einsums: XLA would turn the whole of `through` to batch over outputs.
    over_rank = lambda x, y: (x * y).sum(factors.b.index("R"))
    cross = over_rank(through, b)
    gram = products.einsum(f"{factors.a},{again(factors.a)}->{e.shared}RQ", a, a)
    turned = products.einsum(f"{e.shared}RQ,{again(factors.b)}->{factors.b}", gram, b)
    added = over_rank(turned, b)
    return jnp.sqrt(jnp.maximum(own + 2 * scale * cross + scale**2 * added, 0.0))


def make(*, rank: Count, alpha: Positive, rslora: bool = False, dropout: Chance = 0.0):
    """Make the initialiser of DoRA adapters; the keywords are LoRA's."""
    low = lora.make(rank=rank, alpha=alpha, rslora=rslora, dropout=dropout)

    def init(key: jax.Array, site, w: jax.Array) -> DoRA:
        own = low(key, site, w)
        return DoRA(own.a, own.b, norm(site.equation, w), own.scale, dropout)

    return init
