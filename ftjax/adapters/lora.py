"""Low-rank adaptation, LoRA (arXiv:2106.09685): w' = w + s * a b.

`a` maps the contracted letters to the rank R, `b` maps R to the kept ones; for `BTD,DNH->BTNH` they
are a DR and b RNH. s = alpha / R, or alpha / sqrt(R) with `rslora` (arXiv:2312.03732). `a` starts
uniform in +-1/sqrt(fan in) and `b` at zero, so that the first forward pass is the base's. LoRA+
(arXiv:2402.12354) is a parameter group of the optimizer: groups=[("**/b", dict(lr_scale=16.0))].
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters import base
from ftjax.core import einsum
from ftjax.ops import linear

EXAMPLE = dict(rank=4, alpha=8.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoRA(base.Adapter):
    """Factors a (contracted letters, R) and b (R, kept letters); scale s, a scalar."""

    a: jax.Array
    b: jax.Array
    scale: jax.Array
    dropout: float = dataclasses.field(default=0.0, metadata=dict(static=True))

    FROZEN: ClassVar = ("scale",)

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w + s * a b."""
        delta = jnp.einsum(einsum.lora(equation).weight, self.a, self.b)
        return w + (self.scale * delta).astype(w.dtype)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute x w + s * (dropout(x) a) b without forming a b."""
        e = einsum.lora(equation)
        low = linear.contract(e.down, _dropout(x, self.dropout, key), self.a.astype(x.dtype))
        low = low * self.scale.astype(x.dtype)
        return linear.contract(equation, x, w) + linear.contract(e.up, low, self.b.astype(x.dtype))

    def axes(self, equation: str) -> "LoRA":
        """Letters of a and b; the scale has none."""
        e = einsum.lora(equation)
        return LoRA(e.a, e.b, "", self.dropout)


def _dropout(x: jax.Array, rate: float, key) -> jax.Array:
    """Zero elements with probability `rate`, scaling up the rest; nothing without a key."""
    if rate == 0.0 or key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(
        x.dtype
    )


def make(*, rank: int, alpha: float, rslora: bool = False, dropout: float = 0.0):
    """Make the initialiser of LoRA adapters, float32 whatever the base's dtype.

    Raises:
      ValueError: the rank is not positive, or the dropout is not in [0, 1).
    """
    if rank < 1:
        raise ValueError(f"adapter.rank: got {rank}; expected at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"adapter.dropout: got {dropout}; expected 0 <= dropout < 1")
    scale = alpha / (rank**0.5 if rslora else rank)

    def init(key: jax.Array, site, w: jax.Array) -> LoRA:
        e, parsed = einsum.lora(site.equation), einsum.parse(site.equation)
        sizes = einsum.sizes(parsed.w, w.shape) | {"R": rank}
        bound = einsum.size(parsed.contracted, sizes) ** -0.5
        shape = [sizes[c] for c in e.a]
        a = jax.random.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)
        b = jnp.zeros([sizes[c] for c in e.b], jnp.float32)
        return LoRA(a, b, jnp.float32(scale), dropout)

    return init
