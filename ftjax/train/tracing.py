"""A trace of some steps, for XProf, TensorBoard's profiler or Perfetto.

    with tracing.opened(tracing.read("10:15"), folder) as trace:
        loop.run(..., trace=trace)          # folder/plugins/profile/<time>/<host>.xplane.pb

Every process traces its own devices.
"""

import contextlib
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

FLAG = "--profile"


def read(text: str) -> range:
    """Read "FIRST:LAST", of steps counted from 1, or one step; none of an empty text.

    Raises:
      ValueError: it is neither.
    """
    if not text:
        return range(0)
    found = re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*))?", text)
    first, last = (int(n or found[1]) for n in found.groups()) if found else (1, 0)
    if last < first:
        raise ValueError(
            f"{FLAG}: got {text!r}; expected FIRST:LAST, as 10:15, or one step; steps count from 1"
        )
    return range(first, last + 1)


def check(steps: Sequence[int], total: int) -> None:
    """Raise ValueError for steps that a run of `total` ones does not have."""
    if steps and steps[-1] > total:
        raise ValueError(
            f"{FLAG}: got {steps[0]}:{steps[-1]} of a run of {total} steps; expected some of them; "
            "choose others"
        )


class Trace:
    """Calls steps, and traces those that are asked for."""

    def __init__(self, steps: Sequence[int], folder: pathlib.Path):
        self._steps, self._folder, self._is_on, self._traced = steps, folder, False, 0

    def __call__(self, number: int, call: Callable, *given: Any) -> Any:
        """Return what `call` returns, as step `number`."""
        if number not in self._steps:
            return call(*given)
        if not self._is_on:
            jax.profiler.start_trace(self._folder)
            self._is_on = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            result = call(*given)
        self._traced += 1
        if number == self._steps[-1]:
            jax.block_until_ready(result)  # the devices are behind: their part is to be in it
            self.stop()
        return result

    def stop(self) -> None:
        """Write what was traced so far."""
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False
            sys.stderr.write(f"profile: {self._traced} steps in {self._folder}\n")

    def end(self) -> None:
        """Stop, and say so where no step was traced."""
        self.stop()
        if self._steps and not self._traced:
            told = f"{self._steps[0]}:{self._steps[-1]}"
            sys.stderr.write(f"profile: none of the steps {told} was run, so there is no trace\n")


@contextlib.contextmanager
def opened(steps: Sequence[int], folder: pathlib.Path) -> Iterator[Trace]:
    """Make a trace that ends with the block, whatever ends it."""
    trace = Trace(steps, folder)
    try:
        yield trace
    finally:
        trace.end()
