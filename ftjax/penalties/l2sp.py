"""L2-SP (arXiv:1802.01483): the weights stay near those that the run started from.

    weight / 2 * sum over all weights of (w - w_start)^2

w is the weight that the model computes with, adapters merged: for LoRA it is |scale a b|^2, which
is 0 at the start. A weight decay of the factors would be another pull, towards the base by rank.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp

from ftjax.core.typed import NonNegative
from ftjax.penalties.lib import change
from ftjax.penalties.lib.penalty import Penalty

EXAMPLE = dict(weight=0.01)


def make(*, weight: NonNegative, linears: Mapping[str, Any], trains: Collection[str]) -> Penalty:
    """Make the penalty on every weight that the run changes.

    weight: nats per squared unit of weight. linears: the model's linear maps by path. trains: the
    paths of what trains.

    Raises ValueError where nothing changes a weight, when it is prepared.
    """

    def prepare(params, model, batch, past):
        del model, batch, past
        change.changing(params, trains, name="l2sp")
        return change.start(params, trains)

    def value(params, arrays):
        if weight == 0:
            return jnp.float32(0)
        paths = change.changing(params, trains, name="l2sp")
        square = lambda moved, _: jnp.square(moved)
        return weight / 2 * change.total(square, params, arrays, linears, paths=paths)

    return Penalty(value, prepare)
