"""Prefix tuning (arXiv:2101.00190): n trained keys and values in every layer that all tokens see.

No weight changes. Positions of real tokens start at n; the keys themselves are not rotated. Every
example of a packed row sees the same prefix, and rows keep their length. There is no network in
front of the keys and values (the paper's reparametrisation); PEFT's files hold what it gives.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.core.typed import Count, Positive

EXAMPLE = dict(tokens=3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix(protocol.Adapter):
    """Keys and values of the virtual tokens in every layer, [L, n, K, H] each."""

    k: jax.Array
    v: jax.Array

    MERGES: ClassVar = False

    def axes(self, equation: str) -> "Prefix":
        """Letters of keys and values."""
        return Prefix("LSKH", "LSKH")


def make(*, tokens: Count, init_scale: Positive = 0.02) -> protocol.OfModel:
    """Make the initialiser of a prefix of `tokens` keys and values, normal times `init_scale`.

    Raises:
      ValueError: there are no tokens.
    """
    protocol.check_tokens(tokens)

    def init(key: jax.Array, sizes, weights) -> Prefix:
        shape = (sizes["L"], tokens, sizes["K"], sizes["H"])
        draw = lambda key: init_scale * jax.random.normal(key, shape, jnp.float32)
        return Prefix(*map(draw, jax.random.split(key)))

    return protocol.OfModel("prefix", init)
