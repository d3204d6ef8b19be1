"""The state of training: a tuple of plain trees, of which only `params` are differentiated.

`params` is the trainable part of {"model": ..., "adapters": ...} with `None` holes; the frozen part
is not in the state. It is an argument of the step that is never donated and never returned.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ftjax.adapters import base as adapter_trees
from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.optim import chain
from ftjax.optim import ema as averages


class State(NamedTuple):
    """Everything that a step changes, and the key that randomness derives from."""

    step: jax.Array  # int32 []: the number of updates done
    params: Any  # trainable leaves, None elsewhere
    opt_state: Any
    ema: Any  # exponential moving average of `params`, or None
    key: jax.Array  # typed key []; never changes: draws derive from (key, step, purpose)


def split(params, patterns) -> tuple[Any, Any]:
    """Partition {"model", "adapters", ...} into (trainable, frozen).

    What adapters hold as data, and the reference of a preference loss, never train.

    Raises:
      ValueError: a pattern matches nothing, or nothing would train.
    """
    data = adapter_trees.frozen_paths(params.get("adapters") or {}, prefix="adapters")
    data |= {path for path in tree.paths(params) if path.startswith("reference/")}
    trainable, frozen = tree.partition(params, patterns, where="trainable", exclude=data)
    if not jax.tree.leaves(trainable):
        raise ValueError(f"trainable: got {patterns!r}, which selects no trainable array")
    return trainable, frozen


def create(trainable, tx, *, key: jax.Array, ema: bool = False) -> State:
    """Make the state before the first step."""
    average = averages.init(trainable) if ema else None
    return State(jnp.int32(0), trainable, tx.init(trainable), average, key)


def axes(model, adapters, *, heads: Iterable[str] = ()) -> dict:
    """Return the letters of {"model", "adapters"} (of abstract or real adapters, or None).

    heads: names of scalar heads on the final hidden state, under "head".
    """
    inside = None if adapters is None else adapter_trees.axes(adapters, model.linears)
    own = {"model": model.axes, "adapters": inside}
    return own | {"head": dict.fromkeys(heads, "D")} if heads else own


def shardings(state: State, letters, tx, mesh) -> State:
    """Return a sharding for every array of an abstract state.

    Moments lie where their parameters lie; counts, the step and the key are on every device.
    """
    holes = jax.tree.map(
        lambda leaf, own: None if leaf is None else own,
        state.params, letters, is_leaf=lambda x: x is None,
    )  # fmt: skip
    params = meshes.shardings(holes, state.params, mesh)
    whole = meshes.replicated(mesh)
    opt_state = chain.state_shardings(tx, state.params, params)
    return State(whole, params, opt_state, None if state.ema is None else params, whole)
