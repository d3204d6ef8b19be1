"""A call that comes back while a block runs: `with every(10.0, beat, name="lock"): ...`."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def every(seconds: float, call: Callable[[threading.Event], None], *, name: str) -> Iterator[None]:
    """Call something every so many seconds until the block ends, in a thread of that name.

    call: gets the event that is set once the block has ended. It is waited for, and what it raises
      ends the thread.
    """
    ended = threading.Event()

    def go() -> None:
        while not ended.wait(seconds):
            call(ended)

    # daemon: a process that ends without cleaning up must not wait for it.
    thread = threading.Thread(target=go, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
