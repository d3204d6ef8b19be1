"""What a penalty is: a function of parameters, and the arrays that it compares them with."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


def nothing(params: Mapping, model: Any, batch: Mapping | None) -> dict:
    """Prepare no arrays."""
    del params, model, batch
    return {}


class Penalty(NamedTuple):
    """A penalty; its arrays lie under frozen["penalties"][label] while a run trains.

    value: `(params, arrays) -> float32 scalar`.
    prepare: `(params, model, batch) -> arrays` at the start of a run; it is traced. Arrays that are
      about a parameter end in its path, as `fisher/model/blocks/attn/q`: they lie where it lies.
    rows: how many rows of the penalty's own data `batch` has; 0: it has none and `batch` is None.
    """

    value: Callable
    prepare: Callable = nothing
    rows: int = 0
