"""Low-rank adaptation, LoRA (arXiv:2106.09685): w' = w + s * a b.

`a` maps the contracted letters to the rank R, `b` maps R to the kept ones; for `BTD,DNH->BTNH` they
are a DR and b RNH. s = alpha / R, or alpha / sqrt(R) with `rslora` (arXiv:2312.03732). The first
forward pass is the base's, whatever `init` says (see `starts`; LoftQ's alone is not). LoRA+
(arXiv:2402.12354) is a parameter group of the optimizer: groups=[("**/b", dict(lr_scale=16.0))].
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import inits, protocol
from ftjax.core import config as conf
from ftjax.core import einsum, tree
from ftjax.core.typed import Chance, Count, Positive
from ftjax.ops import fast, linear, lowrank, products

EXAMPLE = dict(rank=4, alpha=8.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoRA(protocol.Adapter):
    """Factors a (contracted letters, R) and b (R, kept letters); scale s, a scalar."""

    a: jax.Array
    b: jax.Array
    scale: jax.Array
    dropout: float = dataclasses.field(default=0.0, metadata=dict(static=True))

    FROZEN: ClassVar = ("scale",)
    PADS: ClassVar = True

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w + s * a b."""
        delta = products.einsum(einsum.lora(equation).weight, self.a, self.b)
        return w + (self.scale * delta).astype(w.dtype)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute x w + s * (dropout(x) a) b, or x (w + s * a b) where that is less work.

        It is when there are more tokens than a weight has rows or columns; it must be float32,
        since a lower type would round the sum away.
        """
        still = self.dropout == 0.0 or key is None
        if still and x.dtype == jnp.float32 and _many(equation, x, w):
            return fast.contract_low_rank(equation, x, w, *self._factors(x.dtype))
        return self.apply_rows(equation, x, w, fast.contract, key)

    def apply_alone(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute x w + s * (dropout(x) a) b: no weight for each adapter."""
        return self.apply_rows(equation, x, w, fast.contract, key)

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
        return w_VD[tokens_BT] + fast.contract("BTR,RD->BTD", a[tokens_BT] * scale, b)

    def axes(self, equation: str) -> "LoRA":
        """Letters of a and b; the scale has none."""
        e = einsum.lora(equation)
        return LoRA(e.a, e.b, "", self.dropout)


class AsLoRA(protocol.Adapter):
    """An adapter whose arrays make up a LoRA, and that computes as it does."""

    def as_lora(self, equation: str) -> protocol.Adapter:
        """Return that LoRA."""
        raise NotImplementedError

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Merge as LoRA does."""
        return self.as_lora(equation).merge(equation, w)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply as LoRA does, without dropout."""
        return self.as_lora(equation).apply(equation, x, w)

    def apply_alone(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply it to one row."""
        return self.as_lora(equation).apply_alone(equation, x, w)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OffsetLoRA(protocol.Adapter):
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
        low = fast.contract(e.down, _dropout(x, self.dropout, key), a) * scale
        return frozen.apply_alone(equation, x, w) + fast.contract(e.up, low, b)

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


def _dropout(x: jax.Array, rate: float, key) -> jax.Array:
    """Zero elements with probability `rate`, scaling up the rest; nothing without a key."""
    if rate == 0.0 or key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(
        x.dtype
    )


def make(
    *, rank: Count, alpha: Positive, rslora: bool = False, dropout: Chance = 0.0,
    init: str = "kaiming", iterations: Count = 1, rho: Positive = 1.0,
):  # fmt: skip
    """Make the initialiser of LoRA adapters, float32 whatever the base's dtype.

    init: a function of `starts`, or one of its NEEDS: then what is made is a `base.Informed`.
    iterations: turns of LoftQ. rho: a layer's largest rank over `rank` with EVA, which then gives
      ranks to the layers whose inputs they explain; columns that a layer has not are zeros.

    Raises:
      ValueError: the rank is not positive, the dropout is not in [0, 1), no such `init`, or a
        keyword that it does not have.
    """
    _check(rank, dropout, init)
    _check_options(init, iterations, rho)
    scale = alpha / (rank**0.5 if rslora else rank)

    def around(a: jax.Array, b: jax.Array) -> LoRA | OffsetLoRA:
        if init not in inits.SUBTRACTED:
            return LoRA(a, b, jnp.float32(scale), dropout)
        return OffsetLoRA(a, b, a, -b, jnp.float32(scale), dropout)

    def start(key: jax.Array, site, w: jax.Array) -> LoRA | OffsetLoRA:
        return around(*draw(init, key, site.equation, w, rank=rank, scale=scale))

    def informed(key: jax.Array, site, w: jax.Array, factors) -> LoRA | OffsetLoRA:
        del key
        blank = zeros(init, site.equation, w.shape, rank=widest(rank, rho))
        if factors is None:
            return around(*blank)
        # What a quantised weight lost, or is split off a weight, is a b; the adapter adds s a b.
        unit = scale**-0.5 if init in ("loftq", *inits.OF_THE_WEIGHT) else 1.0
        return around(*(unit * x for x in factors))

    if init not in inits.NEEDS:
        return start
    options = dict(init=init, rank=rank, scale=scale, iterations=iterations, rho=rho)
    return protocol.Informed(inits.NEEDS[init], informed, options)


def check_width(rank: int, linears: Mapping, *, where) -> None:
    """Check that the rank is at most the smaller side of the widest weight.

    No change of a weight has a higher rank. Raises ValueError with that weight.
    """
    chosen = tree.select(where, linears, where="adapter.where")
    sides = {p: lowrank.sides(linears[p].equation, linears[p].shape) for p in chosen}
    path = max(sides, key=lambda path: min(sides[path]))
    if rank > (most := min(sides[path])):
        raise ValueError(
            f"adapter.rank: got {rank}, above the width of every weight (the widest is {path}, "
            f"{sides[path][0]} x {sides[path][1]}); expected at most {most}; lower it"
        )


def widest(rank: int, rho: float) -> int:
    """Compute the largest rank that a layer may get."""
    return int(rank * rho)


def zeros(init: str, equation: str, shape: tuple[int, ...], *, rank: int):
    """Make factors of zeros for one layer's weight.

    Raises:
      ValueError: the weight has too low a rank for this start.
    """
    inside, outside = lowrank.sides(equation, shape)
    most = {"eva": inside, "lora_ga": min(inside, outside) // 2}.get(init, min(inside, outside))
    _check_rank(init, equation, rank=rank, sides=(inside, outside), most=most)
    sizes, letters = einsum.sizes(einsum.parse(equation).w, shape), einsum.lora(equation)
    sizes |= {"R": rank}
    return tuple(jnp.zeros([sizes[c] for c in own]) for own in (letters.a, letters.b))


def draw(init: str, key: jax.Array, equation: str, w: jax.Array, *, rank: int, scale: float):
    """Make the factors a and b, in the equation's letters, as the start `init` has them."""
    if init in inits.DISPLACED:
        sides = lowrank.sides(equation, w.shape)
        _check_rank(init, equation, rank=rank, sides=sides, most=min(sides))
    a, b = inits.INITS[init](key, lowrank.matrix(equation, w), rank, scale)
    return lowrank.factors(equation, w.shape, a, b)


def _check_rank(init: str, equation: str, *, rank: int, sides: tuple[int, int], most: int) -> None:
    if rank > most:
        raise ValueError(
            f"adapter.rank: got {rank} with init={init!r} for a weight {sides[0]} x {sides[1]} "
            f"({equation}); expected at most {most}"
        )


def _check(rank: int, dropout: float, init: str) -> None:
    if rank < 1:
        raise ValueError(f"adapter.rank: got {rank}; expected at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"adapter.dropout: got {dropout}; expected 0 <= dropout < 1")
    legal = [*inits.INITS, *inits.NEEDS]
    if init not in legal:
        hint = conf.nearest(init, legal)
        raise ValueError(f"adapter.init: got {init!r}; {hint}expected one of {conf.listed(legal)}")
    if init == "orthogonal" and rank % 2:
        raise ValueError(f"adapter.rank: got {rank} with init='orthogonal'; expected an even rank")


def _check_options(init: str, iterations: int, rho: float) -> None:
    for key, value, plain, owner in (
        ("iterations", iterations, 1, "loftq"),
        ("rho", rho, 1, "eva"),
    ):
        if value < 1 or (value != plain and init != owner):
            raise ValueError(
                f"adapter.{key}: got {value} with init={init!r}; expected at least 1, and 1 for "
                f"all but {owner!r}"
            )
