"""The state of training: a tuple of plain trees, of which only `params` are differentiated.

`params` is the trainable part of {"model": ..., "adapters": ...} with `None` holes; the frozen part
is not in the state. It is an argument of the step that is never donated and never returned.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.models import base
from ftjax.ops import quantize
from ftjax.optim import ema as averages
from ftjax.optim import optimizer


class State(NamedTuple):
    """Everything that a step changes, and the key that randomness derives from."""

    step: jax.Array  # int32 []: the number of updates done
    params: Any  # trainable leaves, None elsewhere
    opt_state: Any
    ema: Any  # exponential moving average of `params`, or None
    key: jax.Array  # typed key []; never changes: draws derive from (key, step, purpose)
    integral: Any = None  # what each weight has done for the loss, where a penalty asks for it


def split(params, patterns) -> tuple[Any, Any]:
    """Partition {"model", "adapters", ...} into (trainable, frozen).

    What adapters hold as data, the reference of a preference loss, and what checkpoints keep as
    buffers never train.

    Raises:
      ValueError: a pattern matches nothing or what is quantised, or nothing would train.
    """
    _check_dense(params, patterns)
    data = protocol.frozen_paths(params.get("adapters") or {}, prefix="adapters")
    # A pattern such as `**` must not reach the copy that losses compare with.
    data |= {path for path in tree.paths(params) if path.startswith("reference/")}
    data |= {path for path in tree.paths(params) if path.rpartition("/")[2] in base.BUFFERS}
    trainable, frozen = tree.partition(params, patterns, where="trainable", exclude=data)
    if not jax.tree.leaves(trainable):
        raise ValueError(f"trainable: got {patterns!r}, which selects no trainable array")
    return trainable, frozen


def combine(trainable, frozen):
    """Put the two parts of {"model", "adapters", ...} together again.

    What penalties compare with lies among the frozen arrays and is no parameter, nor is the average
    that a reference follows.
    """
    beside = ("penalties", "average")
    return tree.combine(trainable, {k: v for k, v in frozen.items() if k not in beside})


def _check_dense(params, patterns) -> None:
    patterns = [patterns] if isinstance(patterns, str) else patterns
    for site in quantize.sites(params):
        if hits := [
            p for p in patterns if tree.matches(p, site) or tree.matches(p, f"{site}/codes")
        ]:
            raise ValueError(
                f"trainable: got {hits[0]!r}, which selects {site}; expected no quantised weight, "
                "since codes have no gradient; set model.quantize.name='' or "
                "trainable='adapters/**'"
            )


def create(
    trainable, tx, *, key: jax.Array, ema: bool = False, integral: Any = None
) -> State:  # fmt: skip
    """Make the state before the first step; integral: shapes of what starts at zero, or None."""
    # It starts at the parameters and not at zero, so it needs no correction of bias.
    average = averages.init(trainable) if ema else None
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), integral)
    return State(jnp.int32(0), trainable, tx.init(trainable), average, key, zeros)


def axes(model, params) -> dict:
    """Return the letters of (abstract) params {"model", "adapters"[, "head"]}.

    Adapters may be None; the heads are scalar ones, on the final hidden state.
    """
    adapters = params["adapters"]
    inside = None if adapters is None else protocol.axes(adapters, model.linears)
    own = {"model": quantize.axes(model.axes, params["model"]), "adapters": inside}
    return own | {"head": dict.fromkeys(params["head"], "D")} if "head" in params else own


def shardings(state: State, letters, tx, mesh) -> State:
    """Return a sharding for every array of an abstract state.

    Moments lie where their parameters lie; counts, the step and the key are on every device.
    """
    # Letters are of the whole tree; what does not train is a hole in the state.
    holes = jax.tree.map(
        lambda leaf, own: None if leaf is None else own,
        state.params, letters, is_leaf=lambda x: x is None,
    )  # fmt: skip
    params = meshes.shardings(holes, state.params, mesh)
    whole = meshes.replicated(mesh)
    opt_state = optimizer.state_shardings(tx, state.params, params)
    return State(whole, params, opt_state, None if state.ema is None else params, whole)
