"""Rows of the embedding that train: new or rare tokens, while all others stay.

    w'[i] = the trained row for the chosen tokens, w[i] for the rest

It stands at the path `embed`, beside adapters of any method elsewhere; `adapter.token_ids` lists
the tokens. A tied head sees the same rows.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.adapters.lib import protocol
from ftjax.ops import linear

PATH = "embed"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens(protocol.Adapter):
    """Trained rows (R, D) of the tokens with these ids (R), distinct."""

    rows: jax.Array
    ids: jax.Array

    FROZEN: ClassVar = ("ids",)

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Put the rows in; the equation is that of an embedding."""
        if equation != linear.LOOKUP:
            raise ValueError(f"adapter.token_ids: got {equation!r}; expected {linear.LOOKUP!r}")
        return w.at[self.ids].set(self.rows.astype(w.dtype))

    def lookup(self, tokens_BT: jax.Array, w_VD: jax.Array) -> jax.Array:
        """Take the tokens' rows, without a copy of the embedding."""
        hits_BTR = tokens_BT[..., None] == self.ids
        own = self.rows.astype(w_VD.dtype)[hits_BTR.argmax(-1)]
        return jnp.where(hits_BTR.any(-1, keepdims=True), own, w_VD[tokens_BT])

    def axes(self, equation: str) -> "Tokens":
        """The rows have the letters R and D."""
        return Tokens("RD", "R")


def add_rows(adapters: dict, w_VD: jax.Array, *, ids: Sequence[int]) -> dict:
    """Add trained rows to a tree of adapters; they start as the embedding has them.

    Raises:
      ValueError: an id is not in the vocabulary or there twice, or the embedding has an adapter.
    """
    if PATH in adapters:
        raise ValueError(f"adapter.token_ids: got {ids} and an adapter at {PATH!r}; expected one")
    if len(set(ids)) != len(ids) or not all(0 <= i < w_VD.shape[0] for i in ids):
        raise ValueError(
            f"adapter.token_ids: got {tuple(ids)}; expected distinct ids below {w_VD.shape[0]}"
        )
    where = np.asarray(ids, np.int32)
    return adapters | {PATH: Tokens(w_VD[where].astype(jnp.float32), jnp.asarray(where))}
