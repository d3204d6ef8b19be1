"""Spaces of settings to try: lists of dotted overrides, for the `sweep()` of a config file.

def sweep():
rates = grid({"optim.learning_rate": (1e-4, 3e-4), "seed.data": range(3)})
return rates + sample(8, {"optim.learning_rate": log_uniform(1e-5, 1e-3)})

or, where a module of `ftjax/launch/searches` chooses,

    return Searched({"optim.learning_rate": log_uniform(1e-5, 1e-3)}, 16, dict(name="sobol"))
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ftjax.core import config as conf

Overrides = dict[str, Any]
Draw = Callable[[random.Random], Any]


class Searched(NamedTuple):
    """A space, of each dotted key its values or an interval, and how settings are chosen in it.

    count: of settings. search: the name of a module of `ftjax/launch/searches`, and its options.
    """

    space: Mapping[str, Any]
    count: int
    search: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers between two, even in themselves or in their logarithms; called, it draws one.

    digits: that a number keeps, so that settings can be read; None = all.
    """

    low: float
    high: float
    is_log: bool = False
    digits: int | None = None

    def __call__(self, generator: random.Random) -> float:
        """Draw a number."""
        return self.at(generator.random())

    def at(self, place: float) -> float:
        """Return the number at a place in [0, 1)."""
        if self.is_log:
            return self.rounded(self.low * (self.high / self.low) ** place)
        return self.rounded(self.low + (self.high - self.low) * place)

    def rounded(self, number: float) -> float:
        """Return a number with the digits that are kept; it stays inside."""
        if self.digits is None:
            return number
        return min(max(float(f"{number:.{self.digits}g}"), self.low), self.high)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: Sequence[Any]

    def at(self, place: float) -> Any:
        """Return the value at a place in [0, 1)."""
        return self.values[int(place * len(self.values))]


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


def dimension(own: Iterable | Interval, *, where: str) -> Interval | Choice:
    """Return what a key of a space may be; where: the key, for the error.

    Raises:
      ValueError: it has no values, or is a function, of which a draw is all that is known.
    """
    if isinstance(own, Interval):
        return own
    values = [] if callable(own) or isinstance(own, str) else list(own)
    if not values:
        raise ValueError(
            f"Searched: {where}: got {own!r}; expected values, uniform(low, high) or "
            "log_uniform(low, high); a function of yours can be drawn with name='random'"
        )
    return Choice(values)


def uniform(low: float, high: float) -> Interval:
    """Draw evenly between two numbers.

    Raises:
      ValueError: the second is not above the first.
    """
    _check_order("uniform", low, high)
    return Interval(low, high)


def log_uniform(low: float, high: float, *, digits: int = 3) -> Interval:
    """Draw evenly between the logarithms of two positive numbers, as learning rates are.

    digits: that a draw keeps, so that settings can be read.

    Raises:
      ValueError: a bound is not positive, or the second is not above the first.
    """
    if low <= 0 or high <= 0:
        raise ValueError(f"log_uniform: got {low} and {high}; expected positive bounds")
    _check_order("log_uniform", low, high)
    return Interval(low, high, is_log=True, digits=digits)


def _check_order(name: str, low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"{name}: got {low} and {high}; expected the lower bound first")
