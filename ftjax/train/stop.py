"""Ask a run to stop: SIGTERM from a scheduler, control-C from a person.

A handler only sets a flag, and the loop looks at it between steps. Several processes must stop at
the same step, so under `jax.distributed` the step is agreed by JAX's preemption service, which
hears SIGTERM itself; `jax.distributed.initialize` must then have run before.
"""

import signal
import sys
import threading

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
        """Say whether to stop after `step`; all processes get the same answer at the same step."""
        if jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(step):
            self.reason = "SIGTERM"
        return self.reason is not None

    def _signals(self) -> list[int]:
        if not jax.distributed.is_initialized():
            return [signal.SIGTERM, signal.SIGINT]
        return [signal.SIGINT] if jax.process_count() == 1 else []

    def _handle(self, number: int, frame) -> None:
        if number == signal.SIGINT and self.reason == "SIGINT":
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        again = "; once more to leave at once" if number == signal.SIGINT else ""
        sys.stderr.write(f"\n{self.reason}: saving after this step{again}\n")
