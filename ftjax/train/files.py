"""Files that are either whole or absent: write beside, flush to the disk, rename.

write_json(workdir / "summary.json", {"loss": 1.5})
"""

import json
import math
import os
import pathlib
from typing import Any

import jax
import numpy as np


def write_text(path: os.PathLike | str, text: str) -> pathlib.Path:
    """Write `text` to `path` so that a crash leaves the old file or the new one, never a part."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def write_json(path: os.PathLike | str, value: Any) -> pathlib.Path:
    """Write `value` as indented JSON through `write_text`; NaN and infinities become null."""
    return write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Turn `value` into what JSON can hold: string keys, lists, Python numbers, finite or null."""
    match value:
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case float():
            return float(value) if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case os.PathLike():
            return os.fspath(value)
        case np.generic() | np.ndarray() | jax.Array():
            return plain(np.asarray(value).tolist())
    return str(value)
