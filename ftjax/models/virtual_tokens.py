"""Virtual tokens: what prompt and prefix tuning put before every example.

Their adapters stand at the top of the tree of adapters. A prefix brings keys and values of every
layer. A prompt brings embeddings, which go through the layers as a stream of their own, one row
[1,n,D] that sees nothing else; its keys and values in a layer are the prefix of that layer. The
positions of real tokens start at n, their slots in a cache still at 0.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.models import base

STREAM, PREFIX = "prompt", "prefix"


def count(adapters: Mapping[str, Any]) -> int:
    """Count the virtual tokens, n.

    Raises:
      ValueError: there are a prompt and a prefix.
    """
    if STREAM in adapters and PREFIX in adapters:
        raise ValueError(
            "adapters: got a prompt and a prefix; expected one of them; drop the other"
        )
    if STREAM in adapters:
        return adapters[STREAM].embeddings.shape[0]
    return adapters[PREFIX].k.shape[1] if PREFIX in adapters else 0


def enter(ends, adapters: Mapping[str, Any], *, legal: bool) -> jax.Array | None:
    """Embed the tokens of a prompt, [1,n,D], as the family embeds its own; None without one.

    `legal`: all that a layer reads of a token is its embedding.

    Raises:
      ValueError: there is a prompt, and that is not so.
    """
    if STREAM not in adapters:
        return None
    if not legal:
        raise ValueError(
            "adapters: got a prompt in a model whose layers look up rows of real tokens; expected "
            "an adapter of weights"
        )
    places = jnp.arange(count(adapters))[None]
    # The prompt stands in for the embedding's adapter, so that the family's scale applies to it.
    return ends.enter(places, places, base.Site({"embed": adapters[STREAM]}, None))


def prefix(adapters: Mapping[str, Any], *, legal: bool) -> dict[str, jax.Array] | None:
    """Return the keys and values of a prefix, [L,1,n,K,H]; None without one.

    `legal`: all layers cache keys and values of one shape.

    Raises:
      ValueError: there is a prefix, and they do not.
    """
    if PREFIX not in adapters:
        return None
    if not legal:
        raise ValueError(
            "adapters: got a prefix in a model whose layers do not all have keys and values of one "
            "shape; expected a prompt, or an adapter of weights"
        )
    # One row for all: it is spread over the batch in the layer that uses it.
    return {"k": adapters[PREFIX].k[:, None], "v": adapters[PREFIX].v[:, None]}


def join(prefix: Mapping[str, jax.Array] | None, k_BSKH, v_BSKH):
    """Put the keys and values of a prefix, if there is one, before those of every row."""
    if prefix is None:
        return k_BSKH, v_BSKH
    # Cast here: what trains may have another type than the computation.
    rows = lambda own, x: jnp.broadcast_to(own.astype(x.dtype), (x.shape[0], *own.shape[1:]))
    put = lambda own, x: jnp.concatenate([rows(own, x), x], axis=1)
    return put(prefix["k"], k_BSKH), put(prefix["v"], v_BSKH)
