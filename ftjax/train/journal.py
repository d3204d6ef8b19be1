"""The book-keeping of a run: read each step's metrics late, make rows of them, time the phases.

A row holds the window's means, `tokens` and `padding` (positions seen so far that are tokens, and
those that are not), and under `time/` what depends on the machine: seconds a step, seconds waiting
for data, compiling, evaluating and blocked by checkpoints, tokens a second, memory, and

    MFU = tokens/s * FLOPs per token / (devices * peak)

`mfu` and `mfu_causal` are of tokens without padding, which is no work asked for, `mfu_padded` and
`mfu_padded_causal` of all positions, as most others count. `mfu` counts all of attention, as PaLM
does, `mfu_causal` the half that a causal mask leaves. The first row of a process has `startup_s`,
and `again_s`, the time of the rows that it takes back: see `ftjax.report.goodput`.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ftjax.core import device
from ftjax.core.mean import Mean
from ftjax.report.writers import CLOCK, Jsonl, Writer
from ftjax.train import flops
from ftjax.train.vanish import Vanish
from ftjax.train.window import Window

# What a loop spends beside its steps.
PHASES = ("compile", "data", "eval", "checkpoint")


class _Pending(NamedTuple):
    step: int
    metrics: dict[str, Any]
    tokens: int
    blame: Callable[[], str]


class Journal:
    """Rows, tokens and seconds of one run."""

    def __init__(
        self,
        *,
        writers: tuple[Writer, ...],
        log_every_steps: int,
        progress: dict | None = None,
        flops_per_token: flops.Cost | None = None,
        seconds: dict[str, float] | None = None,
        started: float | None = None,
    ):
        """Start anew, or from the `progress` that `dump` gave.

        seconds: by phase, where several journals are of one process and time. started: when the
        run began in this process, by `time.perf_counter`.
        """
        progress = progress or {}
        self.tokens: int = progress.get("tokens", 0)
        self.padding: int | None = progress.get("padding")  # None: the step does not count it
        self.gradient = Vanish(progress.get("gradient"))
        self.unfinished: dict | None = progress.get("row")
        self.row: dict = {}
        self.rows: int = progress.get("rows", 0)  # written since the run began
        self.seconds = dict.fromkeys(PHASES, 0.0) if seconds is None else seconds
        self._window = Window(progress.get("window"))
        self._writers, self._log_every_steps = writers, log_every_steps
        self._flops_per_token = flops_per_token
        self._pending: _Pending | None = None
        self._read_steps = self._read_tokens = self._read_positions = 0
        self._mark = self._totals()
        self._born = self._mark["wall"]
        self._startup_s = 0.0 if started is None else self._born - started
        self._once = {"startup_s": self._startup_s} | _again(self._writers)

    @contextlib.contextmanager
    def clock(self, phase: str):
        """Count the time inside to `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    def spent(self) -> dict[str, float]:
        """Return the seconds of this process so far: of phases, start-up, and the steps alone."""
        steps = time.perf_counter() - self._born - sum(self.seconds.values())
        return {"startup": self._startup_s, "steps": steps, **self.seconds}

    def push(self, step: int, metrics: dict, *, tokens: int, blame: Callable[[], str]) -> None:
        """Take the metrics of a step just sent to the devices; read those of the step before.

        tokens: of the batch, padding included, which a metric `tokens` of the step tells apart.
        blame: tells the batch and the last good checkpoint, should the loss not be finite.
        """
        # One step late: reading this step's metrics would wait for it while the devices have
        # nothing to do.
        before, self._pending = self._pending, _Pending(step, metrics, tokens, blame)
        if before is not None:
            self.write(before.step, self._read(before, log=False))

    def catch_up(self, *, log: bool = False) -> dict:
        """Wait for the newest step; return its row, unwritten, empty where none is due.

        log: make a row whether due or not.
        """
        before, self._pending = self._pending, None
        return {} if before is None else self._read(before, log=log)

    def write(self, step: int, row: dict) -> None:
        """Hand a row to the writers; an empty one is no row."""
        if row:
            self.row = row
            self.rows += 1
            for writer in self._writers:
                writer.write(step, row)

    def dump(self, row: dict | None = None) -> dict:
        """Return the progress to save; `row` is one that still waits for its evaluations."""
        counts = {"tokens": self.tokens, "padding": self.padding, "rows": self.rows}
        return counts | {
            "gradient": self.gradient.dump(), "window": self._window.dump(), "row": row
        }  # fmt: skip

    def _read(self, pending: _Pending, *, log: bool) -> dict:
        # Here the host waits for the devices; all metrics come in one transfer.
        metrics = dict(jax.device_get(pending.metrics))
        loss = _value(metrics["loss"])
        # Checked on every step and not on logged ones: Adam's moments keep a NaN for good.
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"loop: step {pending.step}: got a loss of {loss}; expected a finite number; "
                f"{pending.blame()}"
            )
        # Taken out, for it is added up: the window would make a mean of it.
        tokens = self._count(metrics.pop("tokens", None), pending.tokens)
        if "grad_norm" in metrics:
            self.gradient.see(pending.step, _value(metrics["grad_norm"]))
        self._window.add(metrics)
        self.tokens += tokens
        self._read_tokens += tokens
        self._read_positions += pending.tokens
        self._read_steps += 1
        if not log and pending.step % self._log_every_steps:
            return {}
        counts = {"tokens": self.tokens}
        counts |= {} if self.padding is None else {"padding": self.padding}
        return self._window.take() | counts | self._speed()

    def _count(self, tokens: Any, positions: int) -> int:
        """Return the tokens of a batch that are no padding, and add up what is."""
        if tokens is None:
            return positions
        self.padding = (self.padding or 0) + positions - int(tokens)
        return int(tokens)

    def _totals(self) -> dict[str, float]:
        counts = {"steps": self._read_steps, "tokens": self._read_tokens}
        counts["positions"] = self._read_positions
        return {"wall": time.perf_counter(), **counts, **self.seconds}

    def _speed(self) -> dict[str, float]:
        """Measure the time since the last row."""
        now = self._totals()
        past = {name: now[name] - self._mark[name] for name in now}
        # Rates are since the last row; what ran between rows (evaluations, saves) is taken out
        # below.
        self._mark = now
        # Waiting for data stays in: it is what a faster loader would win.
        training = past["wall"] - past["compile"] - past["eval"] - past["checkpoint"]
        numbers = {
            "step_s": training / past["steps"],
            "data_s": past["data"] / past["steps"],
            "compile_s": past["compile"],
            "eval_s": past["eval"],
            "checkpoint_s": past["checkpoint"],
            "tokens_per_s": past["tokens"] / training,
            "memory_gib": device.peak_memory_bytes() / 2**30,
        }
        numbers |= self._once | self._mfu(past["tokens"] / training)
        numbers |= self._mfu(past["positions"] / training, "_padded")
        self._once = {}
        return {CLOCK + name: value for name, value in numbers.items()}

    def _mfu(self, tokens_per_s: float, of: str = "") -> dict[str, float]:
        peak = device.peak_flops()
        if peak is None or self._flops_per_token is None:
            return {}
        # All devices of all processes, for the tokens are those of the whole batch.
        share, cost = tokens_per_s / (peak * jax.device_count()), self._flops_per_token
        return {f"mfu{of}": share * cost.full, f"mfu{of}_causal": share * cost.causal}


def _again(writers: tuple[Writer, ...]) -> dict[str, float]:
    """Return the time of rows that were taken back, since their steps are done again."""
    seconds = sum(each.again_s for each in writers if isinstance(each, Jsonl))
    return {"again_s": seconds} if seconds else {}


def _value(metric: Any) -> float:
    if isinstance(metric, Mean):
        # A metric without weight (no pair kept, say) is 0 and not NaN: it must not look like
        # divergence.
        return float(metric.total) / (float(metric.weight) or 1.0)
    return float(metric)
