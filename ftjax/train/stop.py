"""Ask a run to stop: SIGTERM from a scheduler, control-C from a person.

A handler only sets a flag, and the loop looks at it between steps. Several processes must stop at
the same step, so under `jax.distributed` the step is agreed by JAX's preemption service, which
hears SIGTERM itself; `jax.distributed.initialize` must then have run before.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


class Stop:
    """A context that turns SIGTERM and SIGINT into a request; a second SIGINT interrupts."""

    def __init__(self):
        self.reason: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        # Only the main thread may install handlers; elsewhere a run cannot be asked to stop.
        if threading.current_thread() is threading.main_thread():
            for number in self._signals():
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Return whether to stop after `step`; the same on all processes at the same step."""
        if jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(step):
            self.reason = "SIGTERM"
        return self.reason is not None

    def _signals(self) -> list[int]:
        if not jax.distributed.is_initialized():
            return [signal.SIGTERM, signal.SIGINT]
        # SIGTERM is the preemption service's; a SIGINT to one of several would strand the others.
        return [signal.SIGINT] if jax.process_count() == 1 else []

    def _handle(self, number: int, frame) -> None:
        if number == signal.SIGINT and self.reason == "SIGINT":
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        again = "; once more to leave at once" if number == signal.SIGINT else ""
        sys.stderr.write(f"\n{self.reason}: saving after this step{again}\n")


@contextlib.contextmanager
def leaving(has_checkpoint: Callable[[], bool]) -> Iterator[None]:
    """Leave at SIGTERM with code 0 where a checkpoint exists, else with 143, running all cleanups.

    For all of a run that is outside its loop, where `Stop` takes over: nothing there is worth
    saving. Several processes stop together in the loop alone, see above.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or jax.distributed.is_initialized()
    ):
        yield
        return

    def leave(number: int, frame) -> None:
        saved = has_checkpoint()
        what = "the last checkpoint stays" if saved else "no checkpoint was saved yet"
        sys.stderr.write(f"\nSIGTERM: stopped; {what}\n")
        # 128 + number is how a shell reports a process that a signal has ended.
        raise SystemExit(0 if saved else 128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
