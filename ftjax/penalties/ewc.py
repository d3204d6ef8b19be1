"""Elastic weight consolidation (arXiv:1612.00796): weights that old data needs stay where they are.

    weight / 2 * sum over all weights of F (w - w_start)^2

    exact      F = mean over targets of sum_v p(v) (d log p(v) / dw)^2       every token of every
                                                                            target: tiny models
    sampled    F = mean of (d log p(y) / dw)^2, y drawn from the model       without bias for exact
    empirical  F = mean of (d log p(y) / dw)^2, y the data's own tokens      small where they are
                                                                            well predicted

Squares are taken row by row, of the sum over a row's targets, and then averaged over targets: F is
per target token, so that for small changes weight 1 is the KL divergence to the start in nats a
token. Averaging gradients over rows before squaring would be another, far smaller number
(arXiv:2502.11756). F is about the merged weight: by a LoRA's own factor a it is 0 where b is 0.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.core import config as conf
from ftjax.core import tree
from ftjax.core.typed import Count, Natural, NonNegative
from ftjax.ops import products, quantize, softcap
from ftjax.penalties.lib import change
from ftjax.penalties.lib.penalty import Penalty

EXAMPLE = dict(weight=1.0, fisher="sampled", rows=4)


def make(
    *, weight: NonNegative, linears: Mapping[str, Any], trains: Collection[str],
    fisher: str = "sampled", rows: Count = 64, seed: Natural = 0,
) -> Penalty:  # fmt: skip
    """Make the penalty on every weight that the run changes; its `data` are the old ones.

    weight: how many nats a nat of KL per token costs. fisher: exact, sampled or empirical.
    rows: of data that it is estimated from. seed: of the tokens drawn for `sampled`. linears: the
    model's linear maps by path. trains: the paths of what trains.

    Raises:
      ValueError: an unknown estimate, or (when it is prepared) nothing changes a weight.
    """
    if fisher not in FISHERS:
        raise ValueError(
            f"penalties.ewc.fisher: got {fisher!r}; expected one of {conf.listed(FISHERS)}; "
            f"{conf.nearest(fisher, FISHERS)}"
        )

    def prepare(params, model, batch):
        paths = change.changing(params, trains, name="ewc")
        merged = change.weights(params, paths, linears)
        of_weights = _log_probabilities(params, model)
        found = information(of_weights, merged, batch, fisher=fisher, seed=seed)
        return {"start": change.start(params, trains), "fisher": {"model": _nested(found)}}

    def value(params, arrays):
        if weight == 0:
            return jnp.float32(0)
        paths = change.changing(params, trains, name="ewc")
        about = tree.paths(arrays["fisher"]["model"])
        cost = lambda moved, needed: needed * jnp.square(moved)
        moved = change.total(cost, params, arrays["start"], linears, paths=paths, beside=about)
        return weight / 2 * moved

    return Penalty(value, prepare, rows)


def information(of_weights: Callable, weights, batch: Mapping, *, fisher: str, seed: int):
    """Estimate the diagonal of the Fisher information per target token, in the tree of `weights`.

    of_weights: `(weights, row) -> log p [T-1, V]` of every token after each position of a row.
    batch: tokens, weights (0: no target), segments, positions [B, T].
    """
    squares = FISHERS[fisher]

    def add(total, given):
        row, key = given
        targets = (row["weights"][1:] > 0).astype(jnp.float32)
        own = squares(lambda w: of_weights(w, row), weights, row["tokens"][1:], targets, key)
        return jax.tree.map(jnp.add, total, own), targets.sum()

    zeros = jax.tree.map(jnp.zeros_like, weights)
    keys = jax.random.split(jax.random.key(seed), len(batch["tokens"]))
    total, counts = jax.lax.scan(add, zeros, (batch, keys))
    return jax.tree.map(lambda x: x / jnp.maximum(counts.sum(), 1), total)


def _squared(function: Callable, weights):
    return jax.tree.map(jnp.square, jax.grad(function)(weights))


def _exact(logps, weights, tokens, targets, key):
    """Sum p (d log p)^2 over all tokens of all targets: one backward pass for each."""
    del tokens, key
    values, pull = jax.vjp(logps, weights)
    chances = jnp.exp(values) * targets[:, None]

    def add(total, index):
        one = jnp.zeros(values.size).at[index].set(1.0).reshape(values.shape)
        square = lambda t, g: t + chances.reshape(-1)[index] * jnp.square(g)
        return jax.tree.map(square, total, pull(one)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, weights)
    return jax.lax.scan(add, zeros, jnp.arange(values.size))[0]


def _sampled(logps, weights, tokens, targets, key):
    """Square the gradient of a row's drawn tokens; those of two targets do not correlate."""
    del tokens
    drawn = jax.random.categorical(key, logps(weights))
    return _empirical(logps, weights, drawn, targets, None)


def _empirical(logps, weights, tokens, targets, key):
    del key
    of = lambda w: (jnp.take_along_axis(logps(w), tokens[:, None], 1)[:, 0] * targets).sum()
    return _squared(of, weights)


FISHERS = {"exact": _exact, "sampled": _sampled, "empirical": _empirical}


def _log_probabilities(params: Mapping, model) -> Callable:
    """Make `(merged weights by path, row) -> log p [T-1, V]`, float32: one row's logits."""
    beside = change.unmerged(params)

    def logps(merged, row):
        put = lambda path, w: merged.get(path, w)
        own = tree.map_with_paths(put, params["model"], is_leaf=quantize.is_quantized)
        x = model.hidden(
            own, row["tokens"][None], positions_BT=row["positions"][None],
            segments_BT=row["segments"][None], adapters=beside,
        )[0, :-1]  # fmt: skip
        w, cap = model.head(own, beside)
        logits = products.einsum("TD,VD->TV", x, w.astype(x.dtype)).astype(jnp.float32)
        return jax.nn.log_softmax(softcap.apply(logits, cap))

    return logps


def _nested(flat: Mapping[str, jax.Array]) -> dict:
    nested: dict = {}
    for path, leaf in flat.items():
        protocol.insert(nested, path, leaf)
    return nested
