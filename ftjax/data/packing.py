"""Packing: which examples share a row, decided from their lengths alone.

    plan = make("bfd", lengths, max_tokens=1024)      # a million examples in well under a second
    plan.bounds[r], plan.bounds[r + 1]           # the pieces of row r: any row, at once

Strategies:
    bfd        best-fit decreasing: longest first, each into the fullest row that still takes it;
               examples longer than a row are cut to it
    bfd_split  the same after cutting long examples into pieces, so that nothing is lost
    wrapped    one stream cut every `max_tokens`; fills rows completely, but contaminates: documents
               flow over row ends, and their second halves are learned without their beginnings
    none       one example a row, padded

In every strategy the examples of a row are segments 1, 2, ... with positions from 0: attention
stays within a segment, and the first token of a segment is nobody's target.

Best-fit decreasing, after Johnson (1973), "Near-optimal bin packing algorithms". Examples that
would not fill the rows that are asked for are spread over them instead, the longest first, each
into the emptiest row (Graham, 1969, "Bounds on multiprocessing timing anomalies").
"""

import heapq
from collections import deque
from typing import NamedTuple

import numpy as np

STRATEGIES = ("bfd", "bfd_split", "wrapped", "none")
# Those that cut long examples by themselves, into pieces of which nothing is lost.
CUTTING = ("bfd_split", "wrapped")


class Plan(NamedTuple):
    """Rows made of pieces of examples; row r holds the pieces [bounds[r], bounds[r + 1]).

    example, start, length: int64 [pieces], a slice of an example. bounds: int64 [rows + 1].
    """

    example: np.ndarray
    start: np.ndarray
    length: np.ndarray
    bounds: np.ndarray

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.bounds) - 1


def make(strategy: str, lengths, *, max_tokens: int, rows: int = 1) -> Plan:
    """Plan rows of `max_tokens` for examples of the given lengths; empty examples are left out.

    rows: as many at least, where there are the examples for it; of strategies that fill rows.
    Raises ValueError for an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(
            f"data.packing: got {strategy!r}; expected one of {', '.join(STRATEGIES)}; "
            "'bfd' wastes little and never mixes examples"
        )
    lengths = np.asarray(lengths, np.int64)
    if strategy == "wrapped":
        return _wrapped(lengths, max_tokens)
    pieces = _split(lengths, max_tokens if strategy == "bfd_split" else None)
    example, start, length = (each[pieces[2] > 0] for each in pieces)
    length = np.minimum(length, max_tokens)
    if strategy == "none":
        return Plan(example, start, length, np.arange(len(length) + 1))
    order, row = best_fit_decreasing(length, max_tokens)
    if len(row) and row.max() + 1 < rows:
        order, row = _spread(length, max_tokens, min(rows, len(length))) or (order, row)
    # Stable, so that a row lists its examples in the order in which they were put there.
    order = order[np.argsort(row, kind="stable")]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(row))]) if len(row) else np.zeros(1, int)
    return Plan(example[order], start[order], length[order], bounds)


def _split(lengths: np.ndarray, size: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (example, start, length) of every piece of at most `size` tokens."""
    count = np.ones_like(lengths) if size is None else np.maximum(-(-lengths // size), 1)
    example = np.repeat(np.arange(len(lengths)), count)
    first = np.repeat(np.cumsum(count) - count, count)
    start = (np.arange(len(example)) - first) * (size or 0)
    left = lengths[example] - start
    return example, start, left if size is None else np.minimum(left, size)


def _wrapped(lengths: np.ndarray, size: int) -> Plan:
    """Cut the concatenation of all examples at every multiple of `size`."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.union1d(np.arange(0, total, size), (ends - lengths)[lengths > 0])
    stops = np.append(cuts[1:], total)[: len(cuts)]
    example = np.searchsorted(ends, cuts, side="right")
    start = cuts - (ends - lengths)[example]
    bounds = np.append(np.searchsorted(cuts, np.arange(0, total, size)), len(cuts))
    return Plan(example, start, stops - cuts, bounds)


def _spread(lengths: np.ndarray, size: int, rows: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (order, row) as `best_fit_decreasing` does; None where one would not fit."""
    order = (-lengths).argsort(kind="stable")
    row, used = np.empty(len(lengths), np.int64), [(0, r) for r in range(rows)]
    for k, length in enumerate(lengths[order].tolist()):
        taken, row[k] = used[0]
        if taken + length > size:
            return None
        heapq.heapreplace(used, (taken + length, int(row[k])))
    return order, row


def best_fit_decreasing(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (order, row): example `order[k]` goes to row `row[k]`.

    lengths: int [n], each from 1 to `size`. Ties: earlier examples and earlier rows first.
    All examples of one length are placed together: the fullest row that takes one of length l, with
    space s, then has s - l left, which is still the tightest if it takes another, so it receives
    s // l of them before the next row is touched. That makes the work grow with the number of
    distinct lengths and not of examples.
    """
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    row = np.empty(len(lengths), np.int64)
    stops = np.append(np.flatnonzero(np.diff(ordered)) + 1, len(ordered))
    spaces = _Spaces(size)
    done = 0
    for stop in stops if len(ordered) else ():
        length = int(ordered[done])
        while done < stop:
            rows = spaces.place(length, int(stop) - done)
            row[done : done + len(rows)] = rows
            done += len(rows)
    return order, row


class _Spaces:
    """Open rows by the space left in them, first come first served within one amount."""

    def __init__(self, size: int):
        self._size, self._opened = size, 0
        self._rows: dict[int, deque[np.ndarray]] = {}
        # Bit s is set when some row has space s: finding the tightest fit is then two integer ops.
        self._bits = 0

    def place(self, length: int, count: int) -> np.ndarray:
        """Put up to `count` examples of `length` into the rows of the tightest space; name them."""
        fitting = self._bits >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            rows = self._take(space, -(-count // (space // length)))
        else:
            space, each = self._size, self._size // length
            rows = self._opened + np.arange(-(-count // each))
            self._opened += len(rows)
        each = space // length
        placed = min(count, len(rows) * each)
        self._put(space - each * length, rows[: placed // each])
        if placed % each:
            self._put(space - placed % each * length, rows[-1:])
        return np.repeat(rows, each)[:placed]

    def _take(self, space: int, count: int) -> np.ndarray:
        """Remove and return up to `count` rows of `space`, in the order they got it."""
        queue = self._rows[space]
        rows = queue.popleft()
        if len(rows) > count:
            queue.appendleft(rows[count:])
        if not queue:
            self._bits ^= 1 << space
        return rows[:count]

    def _put(self, space: int, rows: np.ndarray) -> None:
        if space and len(rows):
            self._rows.setdefault(space, deque()).append(rows)
            self._bits |= 1 << space
