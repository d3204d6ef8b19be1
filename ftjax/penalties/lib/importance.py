"""Penalties that weigh the change of each weight by how much of what was learned before needs it.

    weight / 2 * sum over all weights of importance (w - w_start)^2
    importance = decay * that of a past run + what is found of the penalty's own data

A run leaves its importance in its workdir, by path of the weight; `past` names the run before. What
is found now is of the weights that this run starts from, so that with past runs and decay 1 no task
is forgotten, and with less the older ones count less (online, arXiv:1805.06370).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.core import tree
from ftjax.ops import products, quantize, softcap
from ftjax.penalties.lib import change
from ftjax.penalties.lib.penalty import Penalty

Arrays = Mapping[str, jax.Array]  # by path of the weight


def make(
    name: str, find: Callable | None, *, weight: float, linears: Mapping[str, Any],
    trains: Collection[str], past: str, decay: float, **options,
) -> Penalty:  # fmt: skip
    """Make the penalty of an importance.

    find: `(params, model, batch, merged weights by path) -> importance by path`, before the first
      step; None finds nothing then. options: fields of `Penalty`.
    """

    def prepare(params, model, batch, before):
        paths = change.changing(params, trains, name=name)
        found = {}
        if find is not None:
            found = find(params, model, batch, change.weights(params, paths, linears))
        joined = add_past(found, before, decay)
        return {"start": change.start(params, trains), "importance": {"model": nested(joined)}}

    def value(params, arrays):
        about = tree.paths(arrays["importance"]["model"])
        paths = [path for path in change.changing(params, trains, name=name) if path in about]
        if weight == 0 or not paths:
            return jnp.float32(0)
        cost = lambda moved, needed: needed * jnp.square(moved)
        moved = change.total(cost, params, arrays["start"], linears, paths=paths, beside=about)
        return weight / 2 * moved

    return Penalty(value, prepare, past=past, **options)


def kept(params: Mapping, arrays: Mapping, integral: Mapping | None) -> dict:
    """Return the importance by path that a run leaves, where it was found before the first step."""
    del params, integral
    return tree.paths(arrays["importance"]["model"])


def add_past(found: Arrays, past: Arrays | None, decay: float) -> dict:
    """Add what a past run left; weights that only one of the two knows have the other's as 0."""
    if past is None:
        return dict(found)
    older = {path: decay * jnp.asarray(x, jnp.float32) for path, x in past.items()}
    return older | {path: x + older[path] if path in older else x for path, x in found.items()}


def per_target(function: Callable, weights, batch: Mapping, *, seed: int = 0):
    """Add up `function(weights, row, targets, key)` over rows, divided by the number of targets.

    batch: tokens, weights (0: no target), ... [B, T]. targets: float32 [T-1], 1 where there is one.
    """

    def add(total, given):
        row, key = given
        targets = (row["weights"][1:] > 0).astype(jnp.float32)
        own = function(weights, row, targets, key)
        return jax.tree.map(jnp.add, total, own), targets.sum()

    zeros = jax.tree.map(jnp.zeros_like, weights)
    keys = jax.random.split(jax.random.key(seed), len(batch["tokens"]))
    total, counts = jax.lax.scan(add, zeros, (batch, keys))
    return jax.tree.map(lambda x: x / jnp.maximum(counts.sum(), 1), total)


def logits(params: Mapping, model) -> Callable:
    """Make `(merged weights by path, row) -> logits [T-1, V]`, float32: those of one row."""
    beside = change.unmerged(params)

    def of_row(merged, row):
        put = lambda path, w: merged.get(path, w)
        own = tree.map_with_paths(put, params["model"], is_leaf=quantize.is_quantized)
        x = model.hidden(
            own, row["tokens"][None], positions_BT=row["positions"][None],
            segments_BT=row["segments"][None], adapters=beside,
        )[0, :-1]  # fmt: skip
        w, cap = model.head(own, beside)
        found = products.einsum("TD,VD->TV", x, w.astype(x.dtype)).astype(jnp.float32)
        return softcap.apply(found, cap)

    return of_row


def nested(flat: Arrays) -> dict:
    """Nest arrays by their paths."""
    found: dict = {}
    for path, leaf in flat.items():
        protocol.insert(found, path, leaf)
    return found
