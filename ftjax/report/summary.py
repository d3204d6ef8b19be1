"""What a run leaves for people and programs: `config.json` at its start, `summary.json` at its end.

    write_config(workdir / "config.json", config)
    write(workdir / "summary.json", result=result, wall_s=9.0, trainable_parameters=n, ...)

summary.json holds the final metrics, tokens, seconds by phase, peak memory, versions, parameter
counts, the data rows that were refused, and the command, host, commit and dates of the run; both
files are replaced atomically.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from ftjax.core import device, files, provenance
from ftjax.core.versions import versions


def write_config(path: os.PathLike | str, config: dict) -> pathlib.Path:
    """Write the resolved config to `path`."""
    return files.write_json(path, config)


def write(
    path: os.PathLike | str,
    *,
    result: Any,
    wall_s: float,
    trainable_parameters: int,
    total_parameters: int,
    bad_rows: Sequence[Any] = (),
    **more: Any,
) -> dict:
    """Write `path` and return what it holds.

    result: of `loop.run`. wall_s: the whole process, loading included.
    bad_rows: rows of the data that were refused, as reported. more: any further JSON values.
    """
    summary = {
        "stopped": result.stopped,
        "step": result.step,
        "metrics": result.row,
        "tokens": result.tokens,
        "padding": result.padding,
        "gradient_zero_since": result.vanished,
        "seconds": {"wall": wall_s, **result.seconds},
        "memory_bytes": device.peak_memory_bytes(),
        "parameters": {"trainable": trainable_parameters, "total": total_parameters},
        "bad_rows": {"count": len(bad_rows), "first": [str(row) for row in bad_rows[:20]]},
        "devices": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
        "versions": versions(),
        **provenance.of_process(seconds=wall_s),
        **more,
    }
    files.write_json(path, summary)
    return summary
