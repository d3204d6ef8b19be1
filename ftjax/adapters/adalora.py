"""Adaptive budgets of rank, AdaLoRA (arXiv:2303.10512): w' = w + s * a diag(e) b.

The factors have the form of a singular value decomposition, and a rank is given up by setting its
e to zero. Which, and when, is the optimizer's business: `optim.ranks`; that a and b stay near
orthogonal is the penalty `penalties.orthogonal`. e starts at zero, a and b normal.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.core import einsum
from ftjax.core.typed import Chance, Count, Positive

EXAMPLE = dict(rank=4, alpha=8.0)
DEVIATION = 0.02
FLOOR = 1e-5  # PEFT divides alpha by rank + 1e-5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdaLoRA(protocol.Adapter):
    """Factors a (contracted letters, R) and b (R, kept letters), values e (R), scale s."""

    a: jax.Array
    e: jax.Array
    b: jax.Array
    scale: jax.Array
    dropout: float = dataclasses.field(default=0.0, metadata=dict(static=True))

    FROZEN: ClassVar = ("scale",)
    PADS: ClassVar = True

    @property
    def low(self) -> lora.LoRA:
        """The LoRA that computes the same: e goes into a, whose last axis is the rank."""
        stacked = self.e.reshape(*self.e.shape[:-1], *(1,) * (self.a.ndim - self.e.ndim), -1)
        return lora.LoRA(self.a * stacked, self.b, self.scale, self.dropout)

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w + s * a diag(e) b."""
        return self.low.merge(equation, w)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute as LoRA does."""
        return self.low.apply(equation, x, w, key)

    def apply_alone(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Compute as LoRA does."""
        return self.low.apply_alone(equation, x, w, key)

    def lookup(self, tokens_BT: jax.Array, w_VD: jax.Array) -> jax.Array:
        """Compute as LoRA does."""
        return self.low.lookup(tokens_BT, w_VD)

    def axes(self, equation: str) -> "AdaLoRA":
        """Letters of a and b; e has the shared ones and R."""
        e = einsum.lora(equation)
        return AdaLoRA(e.a, einsum.parse(equation).shared + "R", e.b, "", self.dropout)


def make(*, rank: Count, alpha: Positive, dropout: Chance = 0.0):
    """Make the initialiser of AdaLoRA adapters; `rank` is the one before any is given up."""
    low = lora.make(rank=rank, alpha=alpha, dropout=dropout)

    def init(key: jax.Array, site, w: jax.Array) -> AdaLoRA:
        own = low(key, site, w)
        normal = lambda key, x: DEVIATION * jax.random.normal(key, x.shape, jnp.float32)
        a_key, b_key = jax.random.split(key)
        shared = len(einsum.parse(site.equation).shared)
        e = jnp.zeros((*own.a.shape[:shared], rank), jnp.float32)
        scale = jnp.float32(alpha / (rank + FLOOR))
        return AdaLoRA(normal(a_key, own.a), e, normal(b_key, own.b), scale, dropout)

    return init
