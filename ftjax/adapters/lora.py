"""Low-rank adaptation, LoRA (arXiv:2106.09685): w' = w + s * a b.

`a` maps the contracted letters to the rank R, `b` maps R to the kept ones; for `BTD,DNH->BTNH` they
are a DR and b RNH. s = alpha / R, or alpha / sqrt(R) with `rslora` (arXiv:2312.03732). The first
forward pass is the base's, whatever `init` (see `starts`) says. LoRA+ (arXiv:2402.12354) is a
parameter group of the optimizer: groups=[("**/b", dict(lr_scale=16.0))].
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters import base, starts
from ftjax.core import conf, einsum
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
    PADS: ClassVar = True

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w + s * a b."""
        delta = jnp.einsum(einsum.lora(equation).weight, self.a, self.b)
        return w + (self.scale * delta).astype(w.dtype)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute x w + s * (dropout(x) a) b, or x (w + s * a b) where that is less work.

        It is when there are more tokens than a weight has rows or columns; it must be float32,
        since a lower type would round the sum away.
        """
        still = self.dropout == 0.0 or key is None
        if still and x.dtype == jnp.float32 and _many(equation, x, w):
            return _merged(equation, x, w, *self._factors(x.dtype))
        return self.apply_rows(equation, x, w, linear.contract, key)

    def apply_alone(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute x w + s * (dropout(x) a) b: no weight for each adapter."""
        return self.apply_rows(equation, x, w, linear.contract, key)

    def apply_rows(self, equation: str, x, w, contract, key=None) -> jax.Array:
        """Compute x w + s * (dropout(x) a) b, each expert's rows with its own factors."""
        e, (a, b, scale) = einsum.lora(equation), self._factors(x.dtype)
        low = contract(e.down, _dropout(x, self.dropout, key), a) * scale
        return contract(equation, x, w) + contract(e.up, low, b)

    def _factors(self, dtype) -> tuple[jax.Array, jax.Array, jax.Array]:
        return self.a.astype(dtype), self.b.astype(dtype), self.scale.astype(dtype)

    def lookup(self, tokens_BT: jax.Array, w_VD: jax.Array) -> jax.Array:
        """Compute w[tokens] + s * a[tokens] b; embeddings have no dropout."""
        a, b, scale = (leaf.astype(w_VD.dtype) for leaf in (self.a, self.b, self.scale))
        return w_VD[tokens_BT] + linear.contract("BTR,RD->BTD", a[tokens_BT] * scale, b)

    def axes(self, equation: str) -> "LoRA":
        """Letters of a and b; the scale has none."""
        e = einsum.lora(equation)
        return LoRA(e.a, e.b, "", self.dropout)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OffsetLoRA(base.Adapter):
    """A LoRA beside a frozen low-rank term: w' = w + s * (a b + a0 b0).

    With a0 b0 = -(a b at the start) the factors may start anywhere, and the base stays as it is:
    PiSSA's residual weight is w + s * a0 b0, never stored. It equals a LoRA of the ranks' sum.
    """

    a: jax.Array
    b: jax.Array
    a0: jax.Array
    b0: jax.Array
    scale: jax.Array
    dropout: float = dataclasses.field(default=0.0, metadata=dict(static=True))

    FROZEN: ClassVar = ("a0", "b0", "scale")
    PADS: ClassVar = True

    def plain(self, equation: str) -> LoRA:
        """Return the one LoRA that computes the same, without dropout."""
        e = einsum.lora(equation)
        a = jnp.concatenate([self.a, self.a0], e.a.index("R"))
        return LoRA(a, jnp.concatenate([self.b, self.b0], e.b.index("R")), self.scale)

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w + s * (a b + a0 b0)."""
        return self.plain(equation).merge(equation, w)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute as LoRA does; dropout acts on the branch of a and b alone."""
        if self.dropout == 0.0 or key is None:
            return self.plain(equation).apply(equation, x, w)
        return self.apply_alone(equation, x, w, key)

    def apply_alone(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute x w + s * (dropout(x) a) b + s * (x a0) b0."""
        e, frozen = einsum.lora(equation), LoRA(self.a0, self.b0, self.scale)
        a, b, scale = (leaf.astype(x.dtype) for leaf in (self.a, self.b, self.scale))
        low = linear.contract(e.down, _dropout(x, self.dropout, key), a) * scale
        return frozen.apply_alone(equation, x, w) + linear.contract(e.up, low, b)

    def lookup(self, tokens_BT: jax.Array, w_VD: jax.Array) -> jax.Array:
        """Compute as LoRA does."""
        return self.plain(linear.LOOKUP).lookup(tokens_BT, w_VD)

    def axes(self, equation: str) -> "OffsetLoRA":
        """Letters of both pairs of factors."""
        e = einsum.lora(equation)
        return OffsetLoRA(e.a, e.b, e.a, e.b, "", self.dropout)


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


def make(
    *, rank: int, alpha: float, rslora: bool = False, dropout: float = 0.0, init: str = "kaiming"
):
    """Make the initialiser of LoRA adapters, float32 whatever the base's dtype.

    init: a function of `starts`.

    Raises:
      ValueError: the rank is not positive, the dropout is not in [0, 1), or no such `init`.
    """
    _check(rank, dropout, init)
    scale = alpha / (rank**0.5 if rslora else rank)

    def start(key: jax.Array, site, w: jax.Array) -> LoRA | OffsetLoRA:
        a, b = draw(init, key, site.equation, w, rank=rank, scale=scale)
        if init not in starts.DISPLACED:
            return LoRA(a, b, jnp.float32(scale), dropout)
        return OffsetLoRA(a, b, a, -b, jnp.float32(scale), dropout)

    return start


def draw(init: str, key: jax.Array, equation: str, w: jax.Array, *, rank: int, scale: float):
    """Make the factors a and b, in the equation's letters, as the start `init` has them."""
    e, letters = einsum.parse(equation), einsum.lora(equation)
    sizes = einsum.sizes(e.w, w.shape) | {"R": rank}
    inside, outside = (einsum.size(part, sizes) for part in (e.contracted, e.kept))
    if init in starts.DISPLACED and rank > min(inside, outside):
        raise ValueError(
            f"adapter.rank: got {rank} with init={init!r} for a weight {inside} x {outside} "
            f"({equation}); expected at most {min(inside, outside)}"
        )
    shape = [*(sizes[c] for c in e.shared), inside, outside]
    matrix = jnp.einsum(f"{e.w}->{e.shared + e.contracted + e.kept}", w).reshape(shape)
    a, b = starts.STARTS[init](key, matrix, rank, scale)
    a = a.reshape([sizes[c] for c in letters.a])
    own = e.shared + "R" + e.kept
    return a, jnp.einsum(f"{own}->{letters.b}", b.reshape([sizes[c] for c in own]))


def _check(rank: int, dropout: float, init: str) -> None:
    if rank < 1:
        raise ValueError(f"adapter.rank: got {rank}; expected at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"adapter.dropout: got {dropout}; expected 0 <= dropout < 1")
    if init not in starts.STARTS:
        hint, legal = conf.nearest(init, starts.STARTS), conf.listed(starts.STARTS)
        raise ValueError(f"adapter.init: got {init!r}; {hint}expected one of {legal}")
    if init == "orthogonal" and rank % 2:
        raise ValueError(f"adapter.rank: got {rank} with init='orthogonal'; expected an even rank")
