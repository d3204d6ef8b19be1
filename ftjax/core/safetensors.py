"""Tensors of a safetensors file where they lie on disk, and arrays that jax takes over uncopied.

    found = mapped(path)                    name -> Tensor; nothing is read
    found["w"].array[:4]                    pages come as they are touched
    found["w"].release()                    and count as this process's memory until then

A whole file would otherwise stay in the process's memory while it is open, beside the arrays.
"""

import dataclasses
import json
import math
import mmap
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ftjax.core import files

FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a mapped file; `kind` is safetensors' name of its type."""

    kind: str
    shape: tuple[int, ...]
    pages: mmap.mmap
    start: int
    stop: int

    @property
    def array(self) -> np.ndarray:
        """View the tensor, which is of one of FLOATS; read-only."""
        kind = np.dtype(FLOATS[self.kind])
        count = (self.stop - self.start) // kind.itemsize
        return np.frombuffer(self.pages, kind, count, self.start).reshape(self.shape)

    @property
    def bytes(self) -> np.ndarray:
        """View a tensor of unsigned bytes; read-only."""
        found = np.frombuffer(self.pages, np.uint8, self.stop - self.start, self.start)
        return found.reshape(self.shape)

    def release(self) -> None:
        """Release the pages; those of a view that is read again come again."""
        first = self.start - self.start % mmap.PAGESIZE
        if self.stop > first:
            self.pages.madvise(mmap.MADV_DONTNEED, first, self.stop - first)


def mapped(path: pathlib.Path) -> dict[str, Tensor]:
    """Map a file; its header is checked as `files.open_tensors` does.

    Raises:
      ValueError: there is no such file, or its header is not sound.
    """
    with files.open_tensors(path), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, stop = (8 + size + at for at in entry["data_offsets"])
        found[name] = Tensor(entry["dtype"], tuple(entry["shape"]), pages, start, stop)
    return found


def empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Make an array of zeros that a CPU device takes over without a copy: on pages of its own.

    Pages as they come: numpy asks for huge ones, which cost more than they save where a number is
    written once.
    """
    count = math.prod(shape)
    pages = mmap.mmap(-1, max(1, count * dtype.itemsize), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype, count).reshape(shape)
