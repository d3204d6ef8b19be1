"""What a keyword accepts, read off its annotation: types all the way down, and ranges of numbers.

    def make(*, rank: Count, dropout: Chance = 0.0, clip_norm: Positive | None = None): ...

    problem(0, Count)                      -> "at least 1"
    problem(("a", 1), Iterable[str])       -> "str at [1], got 1"

The ranges stand here alone; a signature names one. What no config can hold (an array, a traced
scalar) is not judged.
"""

import inspect
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

LARGEST = (2 - 2**-23) * 2.0**127  # of float32, in which all of it is computed


class Range(NamedTuple):
    """Numbers from `low` to `high`; an open end is not one of them."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a number lies inside; what float32 takes for infinite never does."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return abs(value) <= LARGEST and above and below

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        high = f"below {self.high:g}" if self.open_high else f"at most {self.high:g}"
        known = [(self.low, low), (self.high, high)]
        return " and ".join(text for end, text in known if math.isfinite(end)) or "a finite number"


Positive = Annotated[float, Range(low=0, open_low=True)]
NonNegative = Annotated[float, Range(low=0)]
Finite = Annotated[float, Range()]
Decay = Annotated[float, Range(low=0, high=1, open_high=True)]  # of a moving average
Chance = Annotated[float, Range(low=0, high=1, open_high=True)]  # dropout: 1 would drop everything
Share = Annotated[float, Range(low=0, high=1)]
Count = Annotated[int, Range(low=1)]
Natural = Annotated[int, Range(low=0)]
Patterns = str | Iterable[str]

# Annotations that are text, in modules of others (optax's are types).
NAMES = {"bool": bool, "float": float, "int": int, "str": str, "None": None, "dict": dict}


def problem(value: Any, annotation: Any) -> str | None:
    """Return what `annotation` expects where `value` is not that, None where it is."""
    if not _from_config(value):
        return None
    kinds = alternatives(annotation)
    found = [_problem(value, kind) for kind in kinds]
    if not kinds or None in found:
        return None
    # The range, or the element, of the alternative whose type fits says more than all types.
    told = [text for kind, text in zip(kinds, found, strict=True) if _is_instance(value, kind)]
    return told[0] if told else " | ".join(dict.fromkeys(found))


def alternatives(annotation: Any) -> tuple:
    """Return the members of a union, or the annotation alone; nothing where anything goes."""
    if isinstance(annotation, str):
        parts = [part.strip() for part in annotation.split("|")]
        return tuple(NAMES[p] for p in parts) if all(p in NAMES for p in parts) else ()
    if annotation in (Any, inspect.Parameter.empty, object):
        return ()
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        each = [alternatives(part) for part in typing.get_args(annotation)]
        return () if () in each else tuple(kind for kinds in each for kind in kinds)
    return (annotation,)


def plain(annotation: Any) -> tuple[type, ...]:
    """Return the plain types among the alternatives: bool, int, float, str, NoneType."""
    bases = [_base(kind) for kind in alternatives(annotation)]
    return tuple(each for each in bases if each in (bool, int, float, str, type(None)))


def _from_config(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | Mapping)


def _base(kind: Any) -> Any:
    """Return the class behind an alternative."""
    if kind is None:
        return type(None)
    if typing.get_origin(kind) is Annotated:
        return typing.get_args(kind)[0]
    return typing.get_origin(kind) or kind


def _is_instance(value: Any, kind: Any) -> bool:
    base = _base(kind)
    if not isinstance(base, type):
        return True  # a type variable, a protocol's alias: no config holds one
    if isinstance(value, bool):
        return base in (bool, object)
    if base is float:
        return isinstance(value, int | float)
    if isinstance(value, str):  # a text is no sequence of texts
        return base in (str, object)
    if isinstance(value, Mapping):
        return issubclass(base, Mapping | dict) or base is object
    if isinstance(value, list | tuple):
        return issubclass(base, Iterable) and not issubclass(base, Mapping | dict | str)
    return isinstance(value, base)


def _problem(value: Any, kind: Any) -> str | None:
    if not _is_instance(value, kind):
        return _name(kind)
    if typing.get_origin(kind) is Annotated:
        limits = [each for each in typing.get_args(kind)[1:] if isinstance(each, Range)]
        return next((str(each) for each in limits if not each.holds(value)), None)
    return _inside(value, typing.get_args(kind))


def _inside(value: Any, inner: tuple) -> str | None:
    """Return the problem of the first element that has one, with its place."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
        wanted = [inner[1]] * len(pairs) if len(inner) == 2 else []
    elif isinstance(value, list | tuple):
        pairs, fixed = list(enumerate(value)), len(inner) > 1 and inner[-1] is not Ellipsis
        if fixed and len(pairs) != len(inner):
            return f"{len(inner)} elements"
        wanted = list(inner) if fixed else [inner[0]] * len(pairs) if inner else []
    else:
        return None
    for (place, each), kind in zip(pairs, wanted, strict=False):
        if text := problem(each, kind):
            return f"{text} at [{place!r}], got {each!r}"
    return None


def _name(kind: Any) -> str:
    base = _base(kind)
    if base is type(None):
        return "None"
    if not isinstance(base, type):
        return str(kind)
    if issubclass(base, Mapping):
        return "a section, as dict(key=...)"
    if issubclass(base, Iterable) and base is not str:
        of = [_name(each) for each in typing.get_args(kind) if each is not Ellipsis]
        return f"a list of {', '.join(of)}" if of else "a list"
    return base.__name__
