"""Shapes that repeat: lengths rounded up to powers of two, rows filled to a rectangle.

A jitted function compiles once per shape. Lengths between 33 and 64 all become 64, so a stream of
prompts of every length costs a handful of compilations.

    bucket(33, min_size=16) == 64     pad_rows([[5, 6], [7]], 3, fill=0) == [[5, 6, 0], [7, 0, 0]]
"""

from collections.abc import Sequence

import numpy as np


def bucket(count: int, *, min_size: int, max_size: int | None = None) -> int:
    """Round `count` up to `min_size` times a power of two, but not above `max_size`.

    Raises:
      ValueError: `count` itself is above `max_size`.
    """
    if max_size is not None and count > max_size:
        raise ValueError(f"length: got {count}; expected at most {max_size}; shorten the text")
    size = min_size
    while size < count:
        size *= 2
    return size if max_size is None else min(size, max_size)


def pad_rows(sequences: Sequence[Sequence], length: int, *, fill, dtype=np.int32) -> np.ndarray:
    """Stack sequences into [B, length], filled on the right."""
    result = np.full((len(sequences), length), fill, dtype)
    for row, sequence in zip(result, sequences, strict=True):
        row[: len(sequence)] = sequence
    return result
