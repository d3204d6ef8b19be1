"""Where metrics go. A writer has `write(step, row)`, `rewind(step)` and `close()`; a row is a flat
dict of numbers.

    metrics.jsonl:  {"step": 20, "loss": 2.31, "tokens": 40960, "time/step_s": 0.11, ...}

Everything under `time/` depends on the machine and the moment; all else is equal between two runs
of one config, and between a resumed run and one that never stopped (`rewind` drops the rows that a
crash left beyond the checkpoint). The loop lets process 0 alone write.
"""

import json
import os
import pathlib
import sys
import warnings
from collections.abc import Mapping
from typing import Protocol, TextIO

from ftjax.core import digest, files
from ftjax.report import goodput
from ftjax.report.table import Stated, is_shown

CLOCK = goodput.CLOCK


class Writer(Protocol):
    """Takes rows of metrics."""

    def write(self, step: int, row: dict) -> None:
        """Take the numbers of `step`."""

    def rewind(self, step: int) -> int | None:
        """Forget all rows after `step`; -1 forgets everything.

        Returns how many are left, None where the writer cannot know.
        """

    def close(self) -> None:
        """Finish writing."""


class Jsonl:
    """Append one JSON object a row to a file, flushed at once; NaN and infinities become null."""

    def __init__(self, path: os.PathLike | str):
        self.path = pathlib.Path(path)
        self.again_s = 0.0  # the time of the rows that `rewind` took back
        self._file: TextIO | None = None

    def write(self, step: int, row: dict) -> None:
        """Append the row."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps(files.plain({"step": step, **row})) + "\n")
        self._file.flush()

    def rewind(self, step: int) -> int:
        """Drop the rows after `step`, and a last line that a crash cut short; count those left."""
        self.close()
        if not self.path.exists():
            return 0
        rows = _readable(self.path)
        kept = [row for row in rows if row["step"] <= step]
        self.again_s = goodput.total(rows) - goodput.total(kept)
        files.write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        return len(kept)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _readable(path: pathlib.Path) -> list[dict]:
    """Read the rows that can be read; where others are damaged, keep the file under another name.

    A last line without its end was cut short by a crash, and is no damage.
    """
    rows, bad = [], []
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            row["step"] + 0
            rows.append(row)
        except (ValueError, TypeError, KeyError):
            bad.append(number)
    if bad:
        aside = digest.quarantine(path, reason="line")
        warnings.warn(
            f"{path}: got {len(bad)} damaged line(s), first line {bad[0]}; the file is renamed to "
            f"{aside.name}, and its {len(rows)} good rows are kept",
            RuntimeWarning,
            stacklevel=4,
        )
    return rows


def read(path: os.PathLike | str) -> list[dict]:
    """Read the rows of a metrics file, less a torn last line; one that is gone has none."""
    path = pathlib.Path(path)
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    return [json.loads(line) for line in lines[:-1] if line]


class TensorBoard:
    """Write event files that TensorBoard reads, through tensorboardX: numbers, samples, config.

    samples: folder of `<step>.json` with prompts and answers, which become texts. config: of the
    run, which becomes its hyperparameters.
    """

    def __init__(
        self, directory: os.PathLike | str, *, samples: pathlib.Path | None = None,
        config: Mapping | None = None,
    ):  # fmt: skip
        self._directory, self._writer, self._purge = os.fspath(directory), None, None
        self._samples, self._config = samples, config

    def write(self, step: int, row: dict) -> None:
        """Add one scalar for each number, and the samples of a step that has some."""
        from tensorboardX import SummaryWriter, summary  # slow to import: only where it is used

        if self._writer is None:
            self._writer = SummaryWriter(self._directory, purge_step=self._purge)
            if self._config:
                shown = [name for name in row if name.startswith("eval/")]
                for each in summary.hparams(
                    _hyperparameters(files.plain(self._config)), dict.fromkeys(("loss", *shown))
                ):
                    self._writer.file_writer.add_summary(each)
        for name, value in row.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)
        self._add_samples(step)
        self._writer.flush()

    def _add_samples(self, step: int) -> None:
        path = self._samples / f"{step}.json" if self._samples else None
        if path and path.is_file():
            for n, each in enumerate(json.loads(path.read_text(encoding="utf-8"))):
                prompt = each["prompt"]
                asked = prompt if isinstance(prompt, str) else json.dumps(prompt)
                self._writer.add_text(f"samples/{n}", f"{asked}\n\n---\n\n{each['text']}", step)

    def rewind(self, step: int) -> None:
        """Let TensorBoard hide what was written after `step`."""
        self._purge = step + 1

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


def _hyperparameters(config: Mapping, prefix: str = "") -> dict[str, str | float | bool]:
    """Return the leaves of a config by dotted name; what is no number or truth is text."""
    found = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _hyperparameters(value, f"{prefix}{name}.")
        else:
            is_plain = isinstance(value, bool | int | float)
            found[f"{prefix}{name}"] = value if is_plain else str(value)
    return found


class Console:
    """One line a row; on a terminal a progress bar carries the latest one."""

    def __init__(
        self, *, until: int, stream: TextIO | None = None, stated: Stated | None = None
    ):  # fmt: skip
        """Write up to step `until`; stated: metrics of evaluations shown beside the usual ones."""
        self._until, self._stream, self._bar = until, stream or sys.stderr, None
        self._stated = stated
        self._start = 0

    def write(self, step: int, row: dict) -> None:
        """Print the row: training numbers on one line, evaluations on the next."""
        if "loss" in row:
            self._train(step, row)
        if scores := {k: v for k, v in row.items() if is_shown(k, self._stated)}:
            self._print(score_table(step, scores))

    def rewind(self, step: int) -> None:
        """Start the bar at the restored step, or at 0."""
        self._start = max(step, 0)
        if self._stream.isatty():
            self._show_bar()

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def _train(self, step: int, row: dict) -> None:
        if not self._stream.isatty():
            self._print(f"step {step}/{self._until}  {line(row, left=self._until - step)}")
            return
        self._show_bar()
        self._bar.set_postfix_str(line(row, left=None), refresh=False)
        self._bar.update(step - self._bar.n)

    def _show_bar(self) -> None:
        from tqdm import tqdm

        if self._bar is None:
            total = {"total": self._until, "initial": self._start}
            self._bar = tqdm(**total, file=self._stream, dynamic_ncols=True, unit="step")

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
            return
        self._stream.write(text + "\n")
        self._stream.flush()


def score_table(step: int, scores: dict) -> str:
    """Lay evaluations `eval/<label>/<metric>` out: a line each, a column for every metric."""
    found: dict[str, dict[str, str]] = {}
    for name, value in scores.items():
        _, label, metric = name.split("/", 2)
        found.setdefault(label, {})[metric] = _short(value)
    metrics = list(dict.fromkeys(metric for own in found.values() for metric in own))
    lines = [[f"step {step}", *metrics]]
    lines += [[f"  {label}", *(own.get(each, "") for each in metrics)]
              for label, own in found.items()]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    align = lambda text, n: text.rjust(widths[n]) if n else text.ljust(widths[n])
    return "\n".join("  ".join(align(x, n) for n, x in enumerate(each)).rstrip() for each in lines)


def line(row: dict, *, left: int | None) -> str:
    """Put loss, learning rate, speed, MFU, time left and memory of a row in words.

    left: steps to go; None leaves the time out.
    """
    parts = [f"loss {_short(row['loss'])}"]
    if "learning_rate" in row:
        parts.append(f"lr {row['learning_rate']:.3g}")
    if "time/tokens_per_s" in row:
        parts.append(f"{row['time/tokens_per_s']:,.0f} tok/s")
    if row.get("time/mfu") is not None:
        parts.append(f"MFU {row['time/mfu']:.1%}")
    if row.get("padding"):
        parts.append(f"{row['padding'] / (row['padding'] + row['tokens']):.0%} padding")
    if left is not None and "time/step_s" in row:
        parts.append(f"left {duration(left * row['time/step_s'])}")
    if "time/memory_gib" in row:
        parts.append(f"mem {row['time/memory_gib']:.1f} GiB")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Write seconds as `1 h 02 min`, `3 min 20 s` or `45 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _short(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4g}"
