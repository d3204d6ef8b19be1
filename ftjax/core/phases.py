"""What a run does while one waits, on stderr.

with phases.named("compiling the step"): ...
"""

import contextlib
import sys
from collections.abc import Iterator

from ftjax.core import processes

CLEAR = "\r\x1b[K"  # to the beginning of the line, and erase what is there


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Show what is waited for: on a terminal while it lasts, elsewhere as a line of its own."""
    if not processes.is_first():
        yield
        return
    stream, is_terminal = sys.stderr, sys.stderr.isatty()
    stream.write(f"{CLEAR}{what} ..." if is_terminal else f"{what}\n")
    stream.flush()
    try:
        yield
    finally:
        if is_terminal:
            stream.write(CLEAR)
            stream.flush()
