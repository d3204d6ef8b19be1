"""Encoded examples laid end to end, so that a million of them are two arrays and not objects."""

import array
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ftjax.data import spool
from ftjax.data.encode import Example


class Store:
    """A sequence of examples in two long arrays, with the places where each begins.

    tokens: int32 [total], weights: float32 [total], offsets: int64 [examples + 1]; `more` has other
    float32 arrays [total] by name, which go along into batches.
    """

    width = 1  # sequences of an example

    def __init__(self, examples: Iterable[Example]):
        tokens, weights = spool.Array(np.int32), spool.Array(np.float32)
        ends, targets = array.array("q", [0]), 0
        for example in examples:
            tokens.extend(example.tokens)
            weights.extend(example.weights)
            ends.append(ends[-1] + len(example.tokens))
            targets += int(np.count_nonzero(example.weights[1:]))
        self._set(tokens.whole(), weights.whole(), np.array(ends, np.int64), targets=targets)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], **numbers) -> "Store":
        """Return the store that gave `arrays()` and `numbers()`; arrays may be mapped files."""
        made = cls.__new__(cls)
        made._set(*(arrays[name] for name in ("tokens", "weights", "offsets")), **numbers)
        return made

    def _set(self, tokens, weights, offsets, *, targets: int, digest: str = ""):
        self.tokens, self.weights, self.offsets = tokens, weights, offsets
        self.lengths = np.diff(offsets)
        self.more: dict[str, np.ndarray] = {}
        self._digest, self._targets = digest, targets

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what it is made of, for the disk."""
        return {"tokens": self.tokens, "weights": self.weights, "offsets": self.offsets}

    def numbers(self) -> dict[str, Any]:
        """Return what would otherwise be computed from all of it at every start."""
        return {"digest": self.digest(), "targets": self.targets()}

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Example:
        part = slice(self.offsets[i], self.offsets[i + 1])
        return Example(self.tokens[part], self.weights[part])

    def targets(self) -> int:
        """Return the number of tokens with a weight, first tokens of examples aside."""
        return self._targets

    def digest(self) -> str:
        """Return a short hash of everything in it."""
        if not self._digest:
            found = hashlib.sha256()
            for own in (self.tokens, self.weights, self.offsets):
                for block in spool.blocks(own):
                    found.update(block)
            self._digest = found.hexdigest()[:16]
        return self._digest

    def inside(self, plan) -> int:
        """Count the tokens in the rows of a plan."""
        return int(plan.length.sum())

    def batch(self, wanted: list, *, max_tokens: int, pad_id: int) -> dict[str, np.ndarray]:
        """Return a batch of the wanted rows; see `fill`."""
        return fill(self, wanted, max_tokens=max_tokens, pad_id=pad_id)


def fill(store: Store, wanted: list, *, max_tokens: int, pad_id: int) -> dict[str, np.ndarray]:
    """Return a batch of the wanted rows, each a (plan, row) or None for an empty one.

    tokens, segments, positions: int32 [B, T]; weights, and what else there is by token: float32.
    """
    shape = len(wanted), max_tokens
    tokens, weights = np.full(shape, pad_id, np.int32), np.zeros(shape, np.float32)
    segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    more = {name: np.zeros(shape, np.float32) for name in store.more}
    for b, place in enumerate(wanted):
        at = 0
        for segment, example, start, length in _pieces(place):
            source = slice(store.offsets[example] + start, store.offsets[example] + start + length)
            here = slice(at, at + length)
            tokens[b, here], weights[b, here] = store.tokens[source], store.weights[source]
            segments[b, here], positions[b, here] = segment, np.arange(length)
            for name, own in more.items():
                own[b, here] = store.more[name][source]
            weights[b, at : at + 1] = 0.0  # nothing of its own segment comes before a first token
            at += length
    own = {"tokens": tokens, "weights": weights, "segments": segments, "positions": positions}
    return own | more


def _pieces(place) -> Iterator[tuple[int, int, int, int]]:
    """Yield (segment from 1, example, start, length) of a row."""
    if place is not None:
        plan, row = place
        k = slice(plan.bounds[row], plan.bounds[row + 1])
        columns = plan.example[k], plan.start[k], plan.length[k]
        yield from ((n, *map(int, each)) for n, each in enumerate(zip(*columns, strict=True), 1))
