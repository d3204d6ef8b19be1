"""How often Python looks for objects that only refer to each other.

    with put_off():         # a run starts: a million objects are made, nearly all of which stay
        ...
        as_usual()          # it steps: what holds arrays of a device must not wait to be freed

By default it looks after every 700 new objects, and through all there are whenever these have grown
by a quarter: of a start, traces and imports, that is a tenth of the time.
"""

import contextlib
import gc
from collections.abc import Iterator

NEW = 100_000  # objects between two looks at them
_usual = gc.get_threshold()


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Look rarely, until `as_usual` or the end."""
    gc.set_threshold(NEW, *_usual[1:])
    try:
        yield
    finally:
        as_usual()


def as_usual() -> None:
    """Look as often as by default."""
    gc.set_threshold(*_usual)
