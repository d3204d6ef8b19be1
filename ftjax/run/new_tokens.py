"""Tokens that a run adds to its base: `data.new_tokens`, special tokens that the tokenizer lacks.

    data.new_tokens = ("<tool>", "</tool>")

Their ids follow the tokenizer's largest. Rows that the embedding has beyond the tokenizer's tokens
are used first; if there are too few, embedding and head grow. Each new row starts as the mean of
the rows of the tokenizer's own tokens, so that no new token begins as the likeliest (Hewitt 2021,
nlp.stanford.edu/~johnhew/vocab-expansion.html). `resize_token_embeddings` of transformers adds a
little noise to that mean, and takes it over rows without a token too.

Where the model trains whole, so do these rows; beside an adapter they alone train.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.core import config as conf
from ftjax.core import mesh as meshes
from ftjax.core import tree

KEY = "new_tokens"  # of `data`
Tokens = str | Sequence[str]
PATHS = {"embed": "VD", "head": "VD"}  # weights with a row for each token; a tied head is none


def of(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tokens that the data of a run add."""
    found = data.get(KEY, ())
    conf.check(found, Tokens, where=f"data.{KEY}")
    return (found,) if isinstance(found, str) else tuple(found)


def beside(model, ids: Sequence[int], *, patterns: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """List the rows that train beside an adapter: of weights that do not train whole."""
    whole = lambda path: any(tree.matches(p, f"model/{path}") for p in patterns)
    return {path: tuple(ids) for path in _paths(model.abstract) if ids and not whole(path)}


def _paths(params: Mapping[str, Any]) -> list[str]:
    return [path for path in PATHS if path in params]


def check(
    model, ids: Sequence[int], *, adapted, patterns: Sequence[str], quantized: Mapping[str, Any]
) -> None:
    """Check that a run can have new tokens, and trains their rows.

    adapted: the method of its adapters, or None. patterns: what trains. quantized: by path.

    Raises:
      ValueError: it cannot, or does not.
    """
    if not ids:
        return
    where = f"data.{KEY}: got {len(ids)} tokens"
    if isinstance(adapted, protocol.OfModel):
        raise ValueError(
            f"{where} and adapter.name={adapted.name!r}, which changes no weight; expected an "
            "adapter of weights, or none; use lora"
        )
    if getattr(model.config, "layer_vocab", 0):
        raise ValueError(
            f"{where} for a model that embeds tokens in every layer; expected one with a single "
            "embedding; use tokens that the tokenizer has"
        )
    if found := sorted(set(_paths(model.abstract)) & set(quantized)):
        raise ValueError(
            f"{where} and a quantised {found[0]}; expected it in full; set model.quantize.where "
            "to 'blocks/**'"
        )
    rows = set() if adapted is None else set(beside(model, ids, patterns=patterns))
    for path in _paths(model.abstract):
        own = f"adapters/{path}/rows" if path in rows else f"model/{path}"
        if not any(tree.matches(pattern, own) for pattern in patterns):
            raise ValueError(
                f"{where}, whose rows of {path} do not train with trainable={tuple(patterns)}; "
                f"expected a pattern that takes in {own!r}; add it"
            )


def start(params: Mapping[str, Any], ids: Sequence[int], *, mesh) -> Mapping[str, Any]:
    """Give the weights of a base a row for each new token: the mean of the rows before them."""
    if not ids:
        return params

    def one(w_VD):
        own, rest = w_VD[: ids[0]], w_VD[ids[-1] + 1 :]
        # The mean of 100k rows in bfloat16 would be that of its last few.
        mean = own.astype(jnp.float32).mean(0).astype(w_VD.dtype)
        return jnp.concatenate([own, jnp.broadcast_to(mean, (len(ids), len(mean))), rest])

    found = dict(params)
    for path in _paths(params):
        shape = jax.eval_shape(one, params[path]).shape
        place = jax.sharding.NamedSharding(mesh, meshes.spec(PATHS[path], shape, mesh))
        found[path] = jax.jit(one, out_shardings=place)(params[path])
    return found
