"""What stands around the step in a loop: the batch after this one, and the one program."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from ftjax.core import garbage, phases, tree
from ftjax.train.journal import Journal
from ftjax.train.tracing import Trace


@runtime_checkable
class Positioned(Protocol):
    """Batches that know where they are, and can go back there."""

    def state(self) -> dict:
        """Return the position after the last batch given, for JSON."""

    def restore(self, position: dict) -> None:
        """Go to a position."""


class Ahead:
    """Batches, the next of which is fetched while the devices work on one."""

    def __init__(self, batches: Iterator, count: int, journal: Journal, count_tokens: Callable):
        self._batches, self._left, self._journal = batches, count, journal
        self._count_tokens, self._next = count_tokens, None
        self.position: dict | None = None  # after the batches trained on, before the one fetched

    def fetch(self) -> None:
        """Note the position, and fetch one more batch where one is left."""
        # Taken before: the batch that is fetched is trained on after a save.
        self.position = self._batches.state() if isinstance(self._batches, Positioned) else None
        self._next = None
        if self._left > 0:
            self._left -= 1
            with self._journal.clock("data"):
                self._next = next(self._batches, None)

    def check_positioned(self) -> None:
        """Refuse batches that do not know where they are."""
        if not isinstance(self._batches, Positioned):
            raise ValueError(
                f"loop.batches: got {type(self._batches).__name__} without state() and restore(); "
                "expected a loader that can be resumed, since checkpoints are on"
            )

    @property
    def tokens(self) -> int:
        """Positions of the batch, padding included."""
        return self._count_tokens(self._next)

    @property
    def is_over(self) -> bool:
        """Whether no batch is left."""
        return self._next is None

    def __iter__(self) -> "Ahead":
        return self

    def __next__(self) -> Any:
        if self._next is None:
            raise StopIteration
        return self._next


class Calls:
    """Calls the step, and warns when it compiles again: all batches must have one shape."""

    def __init__(
        self, call: Callable, step: Callable, journal: Journal, trace: Trace | None = None
    ):
        # Only compiled functions count their programs; a plain one (in a test) has none to count.
        count = getattr(step, "compilations", None) or getattr(step, "_cache_size", lambda: 0)
        self._count: Callable[[], int] = count
        self._call, self._journal, self._trace = call, journal, trace
        self._seen: int | None = None

    def __call__(self, number: int, state: Any, batch: Any) -> tuple:
        """Call the step on a batch."""
        # The first call traces and compiles before it returns: its time is the compile time.
        is_first = self._seen is None
        with contextlib.ExitStack() as around:
            if is_first:
                around.enter_context(self._journal.clock("compile"))
                around.enter_context(phases.named("compiling the step"))
            given = (self._call, state, batch)
            result = self._trace(number, *given) if self._trace else self._call(state, batch)
        if is_first:  # all that a run traces to begin with is there
            garbage.as_usual()
        count = self._count()
        # The first program is expected; what follows costs minutes on a large model, each time.
        if not is_first and count > self._seen:
            warnings.warn(
                f"loop: step {number} compiled the train step again (program {count}); expected "
                f"one program; look for a changed shape, dtype or sharding in {_shapes(batch)}",
                RuntimeWarning,
                stacklevel=2,
            )
        self._seen = count
        return result


def _shapes(batch: Any) -> dict[str, str]:
    return {path: f"{x.dtype}{list(x.shape)}" for path, x in tree.paths(batch).items()}
