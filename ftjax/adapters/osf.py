"""Orthogonal subspace fine-tuning (arXiv:2504.07097): the largest singular directions stay.

    w = u s v = high + low                         singular triplets, the part `keep` of them high
    w' = high + (1 - u u^T) a b (1 - v^T v)        u, v: of the high ones; a b = low at the start

What trains can neither read nor write along the directions that carry most of the weight. They are
projected out of the factors at every use, and not out of their gradients: a step that scales each
element by itself, as Adam's does, would leave the subspace. Frozen copies of u, v and of the start,
a0 b0 = -low, make it about three times the weight in float32.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters import lora
from ftjax.core import einsum
from ftjax.core.typed import Chance
from ftjax.ops import decompositions, linear, lowrank, products

EXAMPLE = dict(keep=0.5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OSF(lora.AsLoRA):
    """Factors a (contracted letters, R) and b (R, kept); their start a0, b0; high u, v likewise."""

    a: jax.Array
    b: jax.Array
    a0: jax.Array
    b0: jax.Array
    u: jax.Array
    v: jax.Array

    FROZEN: ClassVar = ("a0", "b0", "u", "v")

    def as_lora(self, equation: str) -> lora.OffsetLoRA:
        """Return the LoRA that computes the same: factors off the high directions."""
        shared = len(einsum.parse(equation).shared)
        a = _off(_columns(self.a, shared), _columns(self.u, shared)).reshape(self.a.shape)
        turned = _off(_rows(self.b, shared), _rows(self.v, shared))
        b = turned.reshape(*self.b.shape[1 : 1 + shared], *self.b.shape[1 + shared :], -1)
        return lora.OffsetLoRA(a, jnp.moveaxis(b, -1, 0), self.a0, self.b0, jnp.float32(1))

    def lookup(self, tokens_BT: jax.Array, w_VD: jax.Array) -> jax.Array:
        """Compute as LoRA does."""
        return self.as_lora(linear.LOOKUP).lookup(tokens_BT, w_VD)

    def axes(self, equation: str) -> "OSF":
        """Letters of the three pairs of factors."""
        e = einsum.lora(equation)
        return OSF(e.a, e.b, e.a, e.b, e.a, e.b)


def _columns(a: jax.Array, shared: int) -> jax.Array:
    """View a as [shared.., in, R]."""
    return a.reshape(*a.shape[:shared], -1, a.shape[-1])


def _rows(b: jax.Array, shared: int) -> jax.Array:
    """View b, whose R is first, as the transpose [shared.., out, R]."""
    return _columns(jnp.moveaxis(b, 0, -1), shared)


def _off(x: jax.Array, basis: jax.Array) -> jax.Array:
    """Take the directions of an orthonormal basis [.., n, h] out of the columns of [.., n, R]."""
    within = jnp.matmul(basis.mT, x, precision=products.HIGHEST)
    return x - jnp.matmul(basis, within, precision=products.HIGHEST)


def make(*, keep: Chance = 0.5):
    """Make the initialiser of OSF adapters, float32 whatever the base's dtype.

    keep: part of the singular directions, the largest, that stay; one at least trains.
    """

    def init(key: jax.Array, site, w: jax.Array) -> OSF:
        del key
        m = lowrank.matrix(site.equation, w).astype(jnp.float32)
        u, s, v = decompositions.svd(m)
        high = min(round(keep * s.shape[-1]), s.shape[-1] - 1)
        # Split evenly, a and b have equal norms, and neither gradient dwarfs the other.
        root = jnp.sqrt(s[..., high:])
        pair = lambda a, b: lowrank.factors(site.equation, w.shape, a, b)
        a, b = pair(u[..., high:] * root[..., None, :], root[..., :, None] * v[..., high:, :])
        return OSF(a, b, a, -b, *pair(u[..., :high], v[..., :high, :]))

    return init
