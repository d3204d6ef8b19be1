"""The path integral of each weight along a run: what it has done for the loss.

    integral_i = - sum over steps of g_i (w_i after - w_i before)
    sum over i of integral_i ~ how far the loss fell                        arXiv:1703.04200

w is the weight that the model computes with, adapters merged. Where no adapter changes a weight, g
is the gradient that the step has anyway; otherwise it is asked for, by the merged weights.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.core import tree
from ftjax.ops import quantize
from ftjax.penalties.lib import change, importance


def abstract(params: Mapping, trains: Collection[str], linears: Mapping[str, Any]) -> dict:
    """Return shapes of the integrals of all weights that a run changes, of (abstract) params."""
    merge = lambda params: change.weights(params, paths, linears)
    paths = change.changing(params, trains, name="si")
    return {"model": importance.nested(jax.eval_shape(merge, params))}


def make(linears: Mapping[str, Any]) -> Callable:
    """Make `(integral, before, after, gradient, gradient_by) -> integral` of one step.

    before, after: whole params. gradient: by what trains, at `before`. gradient_by: `(trainable,
    frozen) -> gradient` of the same loss by another split of the same model.
    """

    def add(integral, before, after, gradient, gradient_by):
        paths = list(tree.paths(integral["model"]))
        old, new = (change.weights(each, paths, linears) for each in (before, after))
        if protocol.sites(before.get("adapters") or {}).keys() & old.keys():
            gradient = gradient_by(*by_merged(before, old))
        slopes = tree.paths(gradient["model"])
        one = lambda path, total: total - slopes[path].astype(jnp.float32) * (new[path] - old[path])
        return {"model": tree.map_with_paths(one, integral["model"])}

    return add


def by_merged(params: Mapping, merged: Mapping[str, jax.Array]) -> tuple[dict, dict]:
    """Split params into merged weights, which a gradient is asked for, and all else."""
    put = lambda path, w: merged.get(path, w)
    dense = tree.map_with_paths(put, params["model"], is_leaf=quantize.is_quantized)
    inside = tree.map_with_paths(lambda path, w: w if path in merged else None, dense)
    outside = tree.map_with_paths(lambda path, w: None if path in merged else w, dense)
    frozen = {**params, "model": outside, "adapters": change.unmerged(params)}
    return {**dict.fromkeys(params), "model": inside}, frozen
