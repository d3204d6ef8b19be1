"""Spaces of settings to try: lists of dotted overrides, for the `sweep()` of a config file.

def sweep():
rates = grid({"optim.learning_rate": (1e-4, 3e-4), "seed.data": range(3)})
return rates + sample(8, {"optim.learning_rate": log_uniform(1e-5, 1e-3)})
"""

import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ftjax.core import config as conf

Overrides = dict[str, Any]
Draw = Callable[[random.Random], Any]


def grid(values: Mapping[str, Iterable]) -> list[Overrides]:
    """List every combination of the values of each key, the last key varying fastest.

    Raises:
      ValueError: a key has no values.
    """
    columns = {key: list(own) for key, own in values.items()}
    if empty := [key for key, own in columns.items() if not own]:
        raise ValueError(f"grid: got no values of {conf.listed(empty)}; expected one at least")
    found = itertools.product(*columns.values())
    return [dict(zip(columns, row, strict=True)) for row in found]


def sample(count: int, space: Mapping[str, Iterable | Draw], *, seed: int = 0) -> list[Overrides]:
    """Draw `count` settings; of each key one of its values, or what its function draws.

    The same arguments give the same settings, and more of them begin with those of fewer, so that
    a sweep can grow.
    """
    found = []
    for number in range(count):
        # A generator for each: a key that is added to the space changes no other draw of its row.
        draw = lambda key, own, row=number: _draw(own, random.Random(f"{seed}/{row}/{key}"))
        found.append({key: draw(key, own) for key, own in space.items()})
    return found


def _draw(own: Iterable | Draw, generator: random.Random) -> Any:
    return own(generator) if callable(own) else generator.choice(list(own))


def uniform(low: float, high: float) -> Draw:
    """Draw evenly between two numbers."""
    return lambda generator: generator.uniform(low, high)


def log_uniform(low: float, high: float, *, digits: int = 3) -> Draw:
    """Draw evenly between the logarithms of two positive numbers, as learning rates are.

    digits: that a draw keeps, so that settings can be read.

    Raises:
      ValueError: a bound is not positive.
    """
    if low <= 0 or high <= 0:
        raise ValueError(f"log_uniform: got {low} and {high}; expected positive bounds")
    return lambda generator: float(f"{low * (high / low) ** generator.random():.{digits}g}")
