"""What a penalty is: a function of parameters, and the arrays that it compares them with."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


def nothing(params: Mapping, model: Any, batch: Mapping | None, past: Mapping | None) -> dict:
    """Prepare no arrays."""
    del params, model, batch, past
    return {}


class Note(NamedTuple):
    """A number of the arrays that says whether a penalty can do anything, and what is to be said.

    number: `arrays -> scalar`. least: below it `text`, which has a place for it, is a warning.
    """

    number: Callable
    least: float
    text: str


class Penalty(NamedTuple):
    """A penalty; its arrays lie under frozen["penalties"][label] while a run trains.

    value: `(params, arrays) -> float32 scalar`.
    prepare: `(params, model, batch, past) -> arrays` at the start of a run; it is traced. Arrays
      that are about a parameter end in its path, as `importance/model/blocks/attn/q`: they lie
      where it lies.
    rows: how many rows of the penalty's own data `batch` has; 0: it has none and `batch` is None.
    past: the workdir of a run whose `leave` is handed to `prepare`; "": none, and that is None.
    leave: `(params, arrays, integral) -> float32 arrays by path of a weight`, what the run keeps
      in its workdir when it ends; None: nothing. integral: see `integrates`.
    integrates: whether the path integral of each weight is taken along the run; see
      `penalties.lib.path_integral`.
    note: what is to be said of the arrays, once they are made.
    """

    value: Callable
    prepare: Callable = nothing
    rows: int = 0
    past: str = ""
    leave: Callable | None = None
    integrates: bool = False
    note: Note | None = None
