"""Encoded examples laid end to end, so that a million of them are two arrays and not objects."""

import hashlib
from collections.abc import Iterable

import numpy as np

from ftjax.data.encode import Example


class Store:
    """A sequence of examples in two long arrays, with the places where each begins.

    tokens: int32 [total], weights: float32 [total], offsets: int64 [examples + 1].
    """

    def __init__(self, examples: Iterable[Example]):
        examples = list(examples)
        self.lengths = np.array([len(each.tokens) for each in examples], np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.tokens = np.concatenate([np.zeros(0, np.int32), *(e.tokens for e in examples)])
        self.weights = np.concatenate([np.zeros(0, np.float32), *(e.weights for e in examples)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Example:
        part = slice(self.offsets[i], self.offsets[i + 1])
        return Example(self.tokens[part], self.weights[part])

    def targets(self) -> int:
        """Return the number of tokens with a weight, first tokens of examples aside."""
        firsts = self.weights[self.offsets[:-1]]
        return int(np.count_nonzero(self.weights) - np.count_nonzero(firsts))

    def digest(self) -> str:
        """Return a short hash of everything in it."""
        found = hashlib.sha256()
        for array in (self.tokens, self.weights, self.offsets):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]
