"""Memory aware synapses (arXiv:1711.09601): weights that the outputs on old data hang on stay.

    weight / 2 * sum over all weights of omega (w - w_start)^2
    omega = mean over targets of abs(d |z|^2 / dw)                z: the logits of a target

It asks for no labels: what the old data say next is not read, only which positions are targets.
Absolute values are taken row by row, of the sum over a row's targets, and then averaged over
targets. Unlike Fisher's information it does not vanish where the model is certain.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.core.typed import Count, NonNegative, Share
from ftjax.penalties.lib import importance
from ftjax.penalties.lib.penalty import Penalty

EXAMPLE = dict(weight=1.0, rows=4)


def make(
    *, weight: NonNegative, linears: Mapping[str, Any], trains: Collection[str], rows: Count = 64,
    past: str = "", decay: Share = 1.0,
) -> Penalty:  # fmt: skip
    """Make the penalty on every weight that the run changes; its `data` are the old ones.

    weight: nats per unit of omega and squared weight. rows: of data that omega is estimated from.
    past: the workdir of a run whose omega is added, times decay. linears: the model's linear maps
    by path. trains: the paths of what trains.

    Raises ValueError where nothing changes a weight, when it is prepared.
    """

    def find(params, model, batch, merged):
        return sensitivity(importance.logits(params, model), merged, batch)

    return importance.make(
        "mas", find, weight=weight, linears=linears, trains=trains, past=past, decay=decay,
        rows=rows, leave=importance.kept,
    )  # fmt: skip


def sensitivity(logits: Callable, weights, batch: Mapping):
    """Measure how much the squared length of the logits hangs on each weight, per target token.

    logits: `(weights, row) -> [T-1, V]`. batch: as for `ewc.information`.
    """

    def of_row(weights, row, targets, key):
        del key
        length = lambda w: (jnp.square(logits(w, row)).sum(-1) * targets).sum()
        return jax.tree.map(jnp.abs, jax.grad(length)(weights))

    return importance.per_target(of_row, weights, batch)
