"""Threads that work whenever they are due, over what one lock guards, until all is over.

    workers = Workers(is_over, on_end)
    workers.add("reader", read, is_due)
    workers.start(context)
    with workers.lock:
        ...                                what may make one due, or end all
        workers.tell()
    workers.join()

Only those are woken that have something to do: a thread that wakes takes Python, and maybe a core,
from the others.
"""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple


class _Work(NamedTuple):
    name: str
    do: Callable[[], None]
    is_due: Callable[[], Any]
    changed: threading.Condition


class Workers:
    """See the module.

    is_over: whether there will be no more work; like `is_due`, it is asked under the lock. on_end:
    called by every thread that ends, whatever ended it.
    """

    def __init__(self, is_over: Callable[[], Any], on_end: Callable[[], None]):
        self.lock = threading.Lock()
        self._is_over, self._on_end = is_over, on_end
        self._works: list[_Work] = []
        self._threads: list[threading.Thread] = []

    def add(self, name: str, do: Callable[[], None], is_due: Callable[[], Any]) -> None:
        """Add a thread that does this whenever it is due."""
        self._works.append(_Work(name, do, is_due, threading.Condition(self.lock)))

    def start(self, context: Callable) -> None:
        """Start the threads; they work under this context."""
        self._threads = [
            threading.Thread(target=self._run, args=(work, context), name=work.name, daemon=True)
            for work in self._works
        ]
        for thread in self._threads:
            thread.start()

    def tell(self) -> None:
        """Wake the threads that are due; under the lock."""
        is_over = self._is_over()
        for work in self._works:
            if is_over or work.is_due():
                work.changed.notify()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the end of all threads, of each for `timeout_s` at most."""
        for thread in self._threads:
            thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        """Whether the threads run."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def _run(self, work: _Work, context: Callable) -> None:
        try:
            with context():
                while self._wait(work):
                    work.do()
        finally:  # whatever ended the thread: nobody waits for ever
            self._on_end()

    def _wait(self, work: _Work) -> bool:
        """Wait for work; False when there will be none."""
        with self.lock:
            while not work.is_due():
                if self._is_over():
                    return False
                work.changed.wait()
            return True
