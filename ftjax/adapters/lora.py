"""Low-rank adaptation, LoRA (arXiv:2106.09685): w' = w + s * a b.

`a` maps the contracted letters to the rank R, `b` maps R to the kept ones; for `BTD,DNH->BTNH` they
are a DR and b RNH. s = alpha / R, or alpha / sqrt(R) with `rslora` (arXiv:2312.03732). `a` starts
uniform in +-1/sqrt(fan in) and `b` at zero, so that the first forward pass is the base's. LoRA+
(arXiv:2402.12354) is a parameter group of the optimizer: groups=[("**/b", dict(lr_scale=16.0))].
"""

import dataclasses
import functools
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
        """Compute x w + s * (dropout(x) a) b, or x (w + s * a b) where that is less work.

        It is when there are more tokens than a weight has rows or columns; it must be float32,
        since a lower type would round the sum away.
        """
        e = einsum.lora(equation)
        dropped = _dropout(x, self.dropout, key)
        a, b, scale = (leaf.astype(x.dtype) for leaf in (self.a, self.b, self.scale))
        if dropped is x and x.dtype == jnp.float32 and _many(equation, x, w):
            return _merged(equation, x, w, a, b, scale)
        low = linear.contract(e.down, dropped, a) * scale
        return linear.contract(equation, x, w) + linear.contract(e.up, low, b)

    def lookup(self, tokens_BT: jax.Array, w_VD: jax.Array) -> jax.Array:
        """Compute w[tokens] + s * a[tokens] b; embeddings have no dropout."""
        a, b, scale = (leaf.astype(w_VD.dtype) for leaf in (self.a, self.b, self.scale))
        return w_VD[tokens_BT] + linear.contract("BTR,RD->BTD", a[tokens_BT] * scale, b)

    def axes(self, equation: str) -> "LoRA":
        """Letters of a and b; the scale has none."""
        e = einsum.lora(equation)
        return LoRA(e.a, e.b, "", self.dropout)


def _many(equation: str, x: jax.Array, w: jax.Array) -> bool:
    """Whether w + a b costs less than (x a) b: tokens * (in + out) > in * out."""
    e = einsum.parse(equation)
    if e.shared or not e.x.endswith(e.contracted):
        return False
    by_letter = einsum.sizes(e.x, x.shape) | einsum.sizes(e.w, w.shape)
    inside, outside = (einsum.size(letters, by_letter) for letters in (e.contracted, e.kept))
    return x.size // inside * (inside + outside) > inside * outside


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _merged(equation, x, w, a, b, scale):
    """Compute x (w + s * a b); its gradient never forms the one of the merged weight."""
    return linear.contract(equation, x, LoRA(a, b, scale).merge(equation, w))


def _merged_forward(equation, x, w, a, b, scale):
    return _merged(equation, x, w, a, b, scale), (x, w, a, b, scale)


def _merged_backward(equation, residuals, g):
    """With u = g b^T: dx = g (w + s a b)^T, da = s x^T u, db = s (x a)^T g, ds = <x a, u>."""
    x, w, a, b, scale = residuals
    e, through = einsum.lora(equation), functools.partial(_pull, g)
    dx = through(equation, x, LoRA(a, b, scale).merge(equation, w))[0]
    dw = through(equation, x, w)[1]
    low = linear.contract(e.down, x, a)
    u, db = _pull(g, e.up, low, b)
    # The narrow matrix first, and the barrier so that it stays first: eight times as fast on a CPU.
    rank = a.shape[-1]
    da = jax.lax.optimization_barrier(u.reshape(-1, rank).T @ x.reshape(-1, a.size // rank))
    da = da.T.reshape(a.shape)
    return dx, dw, scale * da, scale * db, (low * u).sum()


def _pull(g, equation, x, w):
    """Pull a cotangent back through `contract`; what is not used of the pair costs nothing."""
    return jax.vjp(functools.partial(linear.contract, equation), x, w)[1](g)


_merged.defvjp(_merged_forward, _merged_backward)


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
