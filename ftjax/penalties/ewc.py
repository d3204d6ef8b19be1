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

Online EWC (arXiv:1805.06370) adds decay * F of a past run, which that run left in its workdir.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.core import config as conf
from ftjax.core.typed import Count, Natural, NonNegative, Share
from ftjax.penalties.lib import importance
from ftjax.penalties.lib.penalty import Note, Penalty

EXAMPLE = dict(weight=1.0, fisher="sampled", rows=4)
# Nats per token for a change of 1 in every weight. That of a base that can still learn is 1 and
# more; at 5e-4 a weight of 1000 held nothing.
LEAST = 1e-2


def make(
    *, weight: NonNegative, linears: Mapping[str, Any], trains: Collection[str],
    fisher: str = "sampled", rows: Count = 64, seed: Natural = 0, past: str = "",
    decay: Share = 1.0,
) -> Penalty:  # fmt: skip
    """Make the penalty on every weight that the run changes; its `data` are the old ones.

    weight: how many nats a nat of KL per token costs. fisher: exact, sampled or empirical.
    rows: of data that it is estimated from. seed: of the tokens drawn for `sampled`. past: the
    workdir of a run whose F is added, times decay. linears: the model's linear maps by path.
    trains: the paths of what trains.

    Raises:
      ValueError: an unknown estimate, or (when it is prepared) nothing changes a weight.
    """
    if fisher not in FISHERS:
        raise ValueError(
            f"penalties.ewc.fisher: got {fisher!r}; expected one of {conf.listed(FISHERS)}; "
            f"{conf.nearest(fisher, FISHERS)}"
        )

    def find(params, model, batch, merged):
        logits = importance.logits(params, model)
        logps = lambda weights, row: jax.nn.log_softmax(logits(weights, row))
        return information(logps, merged, batch, fisher=fisher, seed=seed)

    return importance.make(
        "ewc", find, weight=weight, linears=linears, trains=trains, past=past, decay=decay,
        rows=rows, leave=importance.kept, note=Note(_trace, LEAST, NOTE),
    )  # fmt: skip


NOTE = (
    "got data whose Fisher information has the trace {number:.2g}; expected {least:g} and more: "
    "the base predicts them with near certainty, and so the penalty holds next to nothing; take "
    "other old data, fisher='sampled', or the penalty l2sp"
)


def _trace(arrays: Mapping) -> jax.Array:
    return sum(leaf.sum() for leaf in jax.tree.leaves(arrays["importance"]))


def information(of_weights: Callable, weights, batch: Mapping, *, fisher: str, seed: int):
    """Estimate the diagonal of the Fisher information per target token, in the tree of `weights`.

    of_weights: `(weights, row) -> log p [T-1, V]` of every token after each position of a row.
    batch: tokens, weights (0: no target), segments, positions [B, T].
    """
    squares = FISHERS[fisher]
    of_row = lambda weights, row, targets, key: squares(
        lambda w: of_weights(w, row), weights, row["tokens"][1:], targets, key
    )
    return importance.per_target(of_row, weights, batch, seed=seed)


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
