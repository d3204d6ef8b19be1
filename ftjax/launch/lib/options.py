"""Launchers by name, with their options read from texts `key=value`."""

import inspect
from collections.abc import Sequence

from ftjax.core import config as conf
from ftjax.launch.lib.engine import Engine
from ftjax.run import keys


def engine(name: str, texts: Sequence[str]) -> Engine:
    """Make the launcher of a name, a module of `ftjax/launch` or a dotted path.

    Raises:
      ValueError: there is none of that name, or an option is unknown, missing or of another type.
    """
    make = conf.attribute(name, "launch", where="--engine")
    if make is None:
        raise ValueError(f"--engine: got {name!r}, a module without make(); expected a launcher")
    types = {p.name: p.annotation for p in inspect.signature(make).parameters.values()}
    given = {}
    for text in texts:
        key, found, value = text.partition("=")
        if not found or key in given:
            raise ValueError(f"--option: got {text!r}; expected key=value, each key once")
        given[key] = keys.parse(value, types.get(key, str))
    return conf.call(make, given, where="--option")
