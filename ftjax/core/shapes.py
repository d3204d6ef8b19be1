"""Shapes that repeat: lengths rounded up to powers of two, rows filled to a rectangle.

A jitted function compiles once per shape. Lengths between 33 and 64 all become 64, so a stream of
prompts of every length costs a handful of compilations.

    bucket(33, least=16) == 64        rows([[5, 6], [7]], 3, fill=0) == [[5, 6, 0], [7, 0, 0]]
"""

from collections.abc import Sequence

import numpy as np


def bucket(count: int, *, least: int, most: int | None = None) -> int:
    """Round `count` up to `least` times a power of two, but not above `most`.

    Raises:
      ValueError: `count` itself is above `most`.
    """
    if most is not None and count > most:
        raise ValueError(f"length: got {count}; expected at most {most}; shorten the text")
    size = least
    while size < count:
        size *= 2
    return size if most is None else min(size, most)


def rows(sequences: Sequence[Sequence], length: int, *, fill, dtype=np.int32) -> np.ndarray:
    """Stack sequences into [B, length], filled on the right."""
    result = np.full((len(sequences), length), fill, dtype)
    for row, sequence in zip(result, sequences, strict=True):
        row[: len(sequence)] = sequence
    return result
