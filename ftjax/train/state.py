"""The state of training: a tuple of plain trees, of which only `params` are differentiated.

`params` is the trainable part of {"model": ..., "adapters": ...} with `None` holes; the frozen part
is not in the state. It is an argument of the step that is never donated and never returned.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ftjax.adapters import base as adapters
from ftjax.core import tree


class State(NamedTuple):
    """Everything that a step changes, and the key that randomness derives from."""

    step: jax.Array  # int32 []: the number of updates done
    params: Any  # trainable leaves, None elsewhere
    opt_state: Any
    ema: Any  # exponential moving average of `params`, or None
    key: jax.Array  # typed key []; never changes: draws derive from (key, step, purpose)


def split(params, patterns) -> tuple[Any, Any]:
    """Partition {"model", "adapters"} into (trainable, frozen); adapters' data never trains.

    Raises:
      ValueError: a pattern matches nothing, or nothing would train.
    """
    data = adapters.frozen_paths(params.get("adapters") or {}, prefix="adapters")
    trainable, frozen = tree.partition(params, patterns, where="trainable", exclude=data)
    if not jax.tree.leaves(trainable):
        raise ValueError(f"trainable: got {patterns!r}, which selects no trainable array")
    return trainable, frozen


def create(trainable, tx, *, key: jax.Array, ema: bool = False) -> State:
    """Make the state before the first step."""
    copy = jax.tree.map(jnp.copy, trainable) if ema else None
    return State(jnp.int32(0), trainable, tx.init(trainable), copy, key)
