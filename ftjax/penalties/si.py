"""Synaptic intelligence (arXiv:1703.04200): weights that past runs' losses fell by stay.

    weight / 2 * sum over all weights of omega (w - w_start)^2
    omega = sum over past runs of max(0, integral) / ((w_end - w_start)^2 + damping)

The integral of a weight is what it has done for the loss along a run, - sum of g dw over steps; all
of them add up to how far the loss fell. It is taken while this run trains, by the gradient of the
mean loss (anchors included, penalties not), and what it comes to is left for the run after. So the
first of a sequence, without `past`, is held by nothing.

Of adapters the integral is of the merged weight, for which each step has a second gradient, by all
adapted weights: as much time and memory as for full fine-tuning.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp

from ftjax.core import tree
from ftjax.core.typed import NonNegative, Positive, Share
from ftjax.penalties.lib import change, importance
from ftjax.penalties.lib.penalty import Penalty

EXAMPLE = dict(weight=1.0, damping=0.1)


def make(
    *, weight: NonNegative, linears: Mapping[str, Any], trains: Collection[str],
    damping: Positive = 0.1, past: str = "", decay: Share = 1.0,
) -> Penalty:  # fmt: skip
    """Make the penalty on every weight that the run changes.

    weight: nats per nat of the past runs' gains; at 0 nothing is taken and left. damping: squared
    change of a weight below which its omega grows no further. past: the workdir of the run before,
    whose omega is the penalty's; it counts decay in what this run leaves. linears: the model's
    linear maps by path. trains: the paths of what trains.

    Raises ValueError where nothing changes a weight, when it is prepared.
    """

    def leave(params, arrays, integral):
        before = tree.paths(arrays["importance"]["model"])
        gained = tree.paths(integral["model"])
        then = change.at_start(params, arrays["start"])
        now, old = (change.weights(each, list(gained), linears) for each in (params, then))
        own = {
            path: jnp.maximum(gain, 0) / (jnp.square(now[path] - old[path]) + damping)
            for path, gain in gained.items()
        }
        return importance.add_past(own, before, decay)

    # The decay is of what is handed on: what a past run left holds in full.
    return importance.make(
        "si", None, weight=weight, linears=linears, trains=trains, past=past, decay=1.0,
        leave=leave if weight else None, integrates=bool(weight),
    )  # fmt: skip
