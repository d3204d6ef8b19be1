"""Prompt tuning (arXiv:2104.08691): n trained embeddings stand before every example.

No weight changes. The virtual tokens run through the layers as a stream of their own, seeing only
each other, and every example of a row sees their keys and values; positions of real tokens start at
n. So rows keep their length, packed examples share the prompt, and cached decoding works.

The embeddings start as those of tokens of the vocabulary, drawn or given.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.core.typed import Count

EXAMPLE = dict(tokens=3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompt(protocol.Adapter):
    """Embeddings of the virtual tokens, [n, D]: to them, what the embedding is to real ones."""

    embeddings: jax.Array

    MERGES: ClassVar = False

    def lookup(self, tokens_BT: jax.Array, w_VD: jax.Array) -> jax.Array:
        """Take rows of the prompt in place of the vocabulary's."""
        return self.embeddings.astype(w_VD.dtype)[tokens_BT]

    def axes(self, equation: str) -> "Prompt":
        """Letters: virtual tokens are keys that others see."""
        return Prompt("SD")


def make(*, tokens: Count, ids: Sequence[int] = ()) -> protocol.OfModel:
    """Make the initialiser of a prompt.

    Args:
      tokens: n.
      ids: the prompt starts as these tokens, repeated or cut to n; drawn at random when empty.

    Raises:
      ValueError: n is not positive.
    """
    protocol.check_tokens(tokens)

    def init(key: jax.Array, sizes, weights) -> Prompt:
        table_VD = weights["embed"]
        drawn = jax.random.randint(key, (tokens,), 0, sizes["V"])
        chosen = jnp.resize(jnp.asarray(ids), tokens) if ids else drawn
        return Prompt(table_VD[chosen].astype(jnp.float32))

    return protocol.OfModel("prompt", init)
