"""The change of a model's weights since the start of a run, whatever made it.

    change = merge(adapter, w) - merge(adapter at the start, w at the start)

A penalty on the factors of an adapter is another one: those of LoRA start at b = 0, where a may be
anything and the loss has no gradient by a.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.core import tree
from ftjax.ops import quantize


def start(params: Mapping, trains: Collection[str]) -> dict:
    """Copy what makes the weights change: trainable leaves of the model (else None), adapters."""
    kept = lambda path, leaf: jnp.copy(leaf) if f"model/{path}" in trains else None
    adapters = jax.tree.map(jnp.copy, params.get("adapters"))
    return {"model": tree.map_with_paths(kept, params["model"]), "adapters": adapters}


def at_start(params: Mapping, origin: Mapping) -> dict:
    """Return the params of the model as `start` found them; what has not moved is that of now."""
    return {**origin, "model": tree.combine(origin["model"], params["model"])}


def changing(params: Mapping, trains: Collection[str], *, name: str) -> list[str]:
    """List the paths of the model's weights that a run changes.

    Raises:
      ValueError: there is none; `name` is the penalty's.
    """
    found = {path.removeprefix("model/") for path in trains if path.startswith("model/")}
    found |= {path for path, adapter in _adapters(params).items() if adapter.MERGES}
    if not found:
        raise ValueError(
            f"penalties: got {name} and nothing that changes a weight of the model; expected "
            "adapters of weights, or trainable weights; drop the penalty"
        )
    return sorted(found)


def weights(params: Mapping, paths: Collection[str], linears: Mapping[str, Any]) -> dict:
    """Merge adapters into the weights at these paths: {path: float32 array}."""
    dense, adapters, merged = _weights(params), _adapters(params), {}
    for path in paths:
        one = _merging(path, linears)
        if path in adapters and linears[path].stack is not None:
            one = jax.vmap(one, in_axes=(0, tree.layer_axes(adapters[path])))
        merged[path] = one(dense[path], adapters.get(path))
    return merged


def unmerged(params: Mapping) -> dict | None:
    """Return the adapters that change no weight, which `weights` leaves out; None: there are none.

    They are those that adapt the model: a tree of one name each.
    """
    adapters = params.get("adapters") or {}
    kept = {path: one for path, one in _adapters(params).items() if not one.MERGES}
    return {path: adapters[path] for path in kept} or None


def total(
    cost: Callable, params: Mapping, origin: Mapping, linears: Mapping[str, Any], *,
    paths: Collection[str], beside: Mapping[str, jax.Array] | None = None,
) -> jax.Array:  # fmt: skip
    """Sum `cost(change, beside)` over the elements of the weights at `paths`: float32 scalar.

    origin: from `start`. beside: an array by path in the shape of the weight; None hands on None.
    Of an adapted stack one layer is there at a time: the merged weights would be a second base.
    """
    sides = [(_weights(p), _adapters(p)) for p in (params, at_start(params, origin))]
    sums = []
    for path in paths:
        merge = _merging(path, linears)

        def one(pairs, other, merge=merge):
            now, before = (merge(w, adapter) for w, adapter in pairs)
            return cost(now - before, other).sum()

        pairs = [(dense[path], adapters.get(path)) for dense, adapters in sides]
        given = (pairs, None if beside is None else beside[path])
        by_layer = pairs[0][1] is not None and linears[path].stack is not None
        sums.append(_over_layers(one, given) if by_layer else one(*given))
    return sum(sums)


def _over_layers(function: Callable, given) -> jax.Array:
    shared, stacked = tree.split_shared(given)
    run = lambda layer: function(*tree.unshared(tree.combine(layer, shared)))
    return jax.lax.map(jax.checkpoint(run), stacked).sum()


def _merging(path: str, linears: Mapping[str, Any]) -> Callable:
    def merge(w, adapter):
        w = quantize.dense(w, jnp.float32).astype(jnp.float32)
        return w if adapter is None else tree.unshared(adapter).merge(linears[path].equation, w)

    return merge


def _weights(params: Mapping) -> dict:
    flat = jax.tree_util.tree_flatten_with_path(params["model"], is_leaf=quantize.is_quantized)[0]
    return {tree.path_name(keys): w for keys, w in flat}


def _adapters(params: Mapping) -> dict:
    return protocol.sites(params.get("adapters") or {})
