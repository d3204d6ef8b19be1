"""Lists and arrays that grow at their end, in memory while they are small and in a file beyond.

    rows = spool.List()                 rows.append({"prompt": "..."})     rows[i]
    tokens = spool.Array(np.int32)      tokens.extend(array)               tokens.whole()

As Python objects a million rows of a fine-tuning set are gigabytes. The files are unnamed ones in
the system's folder of temporary files (TMPDIR), and go when their list or array does.
"""

import array
import bisect
import mmap
import pickle
import re
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

MEMORY = 2**25  # bytes of a list or an array before it goes to a file
CHUNK = 32  # items pickled together: reading in order costs little, and one alone not much
BLOCK = 2**24  # bytes of a block


def _file(owner: Any) -> tempfile.SpooledTemporaryFile:
    """Open a file that is closed when its owner goes."""
    file = tempfile.SpooledTemporaryFile(max_size=MEMORY)  # noqa: SIM115
    weakref.finalize(owner, file.close)
    return file


class List(Sequence):
    """Any items that can be pickled, read as new objects."""

    def __init__(self, items: Iterable = ()):
        self._file = _file(self)
        self._ends = array.array("q", [0])
        self._tail: list = []
        self._held: tuple[int, list] = (-1, [])  # the chunk that was read last
        self._lock = threading.Lock()  # a file has one position
        self.extend(items)

    def append(self, item: Any) -> None:
        """Add an item."""
        self._tail.append(item)
        if len(self._tail) == CHUNK:
            data = pickle.dumps(self._tail, pickle.HIGHEST_PROTOCOL)
            with self._lock:
                self._file.seek(self._ends[-1])
                self._file.write(data)
            self._ends.append(self._ends[-1] + len(data))
            self._tail = []

    def extend(self, items: Iterable) -> None:
        """Add items."""
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        return CHUNK * (len(self._ends) - 1) + len(self._tail)

    def __getitem__(self, i: int) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        chunk, at = divmod(i % len(self), CHUNK)
        return self._tail[at] if chunk == len(self._ends) - 1 else self._read(chunk)[at]

    def _read(self, chunk: int) -> list:
        with self._lock:
            if self._held[0] != chunk:
                start, end = self._ends[chunk : chunk + 2]
                self._file.seek(start)
                self._held = chunk, pickle.loads(self._file.read(end - start))
            return self._held[1]


class Array:
    """Numbers of one type, laid end to end."""

    def __init__(self, dtype: Any):
        self._dtype = np.dtype(dtype)
        self._file = _file(self)
        self._size = 0

    def extend(self, numbers: np.ndarray) -> None:
        """Add numbers, [n]."""
        self._size += self._file.write(np.asarray(numbers, self._dtype).tobytes())

    def whole(self) -> np.ndarray:
        """Return all of them, read-only: [N], over the pages of the file if there is one."""
        if self._size <= MEMORY:
            self._file.seek(0)
            return np.frombuffer(self._file.read(), self._dtype)
        self._file.flush()
        return np.frombuffer(
            mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), self._dtype
        )


def blocks(whole: np.ndarray) -> Iterator[memoryview]:
    """Yield the bytes of an array in blocks, and let go of those pages of a file that were read.

    Such pages count as memory of the process, though the system can take them back.
    """
    data = np.ascontiguousarray(whole).reshape(-1).view(np.uint8)
    base = whole
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    for start in range(0, len(data), BLOCK):
        yield data[start : start + BLOCK].data
        if isinstance(base, mmap.mmap):
            base.madvise(mmap.MADV_DONTNEED)


class Places(Sequence):
    """Texts such as "train.jsonl:12", of which many differ in the number at their end alone."""

    def __init__(self):
        self._starts, self._texts, self._numbers = array.array("q"), [], array.array("q")

    def append(self, place: str) -> None:
        """Add a text."""
        found = re.fullmatch(r"(.*\D)(0|[1-9]\d{0,17})", place, re.DOTALL)
        text, number = found.groups() if found else (place, -1)
        if not self._texts or self._texts[-1] != text:
            self._starts.append(len(self._numbers))
            self._texts.append(text)
        self._numbers.append(int(number))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> str:
        number = self._numbers[i]
        text = self._texts[bisect.bisect_right(self._starts, i % len(self)) - 1]
        return f"{text}{number}" if number >= 0 else text


class Chosen(Sequence):
    """Some items of a sequence, read when they are asked for."""

    def __init__(self, items: Sequence, chosen: Iterable[int]):
        self._items, self._chosen = items, array.array("q", chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, i: int) -> Any:
        return self._items[self._chosen[i]]
