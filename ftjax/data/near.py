"""Rows that are nearly the same as an earlier one.

    near(texts)        int64 [texts]: the earlier row that each is near to, -1 where there is none

Two texts are near when their sets of word trigrams overlap by SIMILAR (Jaccard), boilerplate aside:
trigrams that a tenth of all rows have, as the frame of a prompt. Which pairs are compared, exactly,
MinHash says: one hash, 64 bins, the smallest value of each (arXiv:1207.8043; empty bins borrow from
others, Shrivastava 2017), in 16 bands of 4. Of long texts, a pair that is 0.7 alike is missed in
one case of 80, one that is 0.8 alike in one of 4,500.
"""

from collections.abc import Sequence

import numpy as np

from ftjax.data import shingles

SIMILAR = 0.7
WORDS = 3  # of a shingle
BINS, BAND = 64, 4
EMPTY = np.uint32(2**32 - 1)
TABLE = 2**22  # counters of shingles, by a part of their hash
DONORS = 40  # bins that an empty one asks
PAIRS = 2048  # compared at a time
ROWS = 2**14  # whose empty bins are filled at a time


def near(texts: Sequence[str]) -> np.ndarray:
    """Return for each text the earlier one that it is near to: int64 [texts], -1 for none.

    texts: read twice in order, and some once more; they may be made as they are read. Equal texts
    are near to each other.
    """
    common = _Common(texts)
    signatures = np.full((len(texts), BINS), EMPTY, np.uint32)
    for batch in shingles.batches(texts):
        grams, owners = common.without(*shingles.ordered(batch, WORDS)[:2])
        bins = (grams >> np.uint64(58)).astype(np.int64)
        np.minimum.at(signatures, (owners, bins), grams.astype(np.uint32))
    filled = (signatures != EMPTY).any(1)
    _borrow(signatures)
    return _matched(signatures, filled, _Compared(texts, common))


class _Common:
    """Counts in how many rows shingles are, to tell boilerplate; by a part of the hash."""

    def __init__(self, texts: Sequence[str]):
        self._limit = shingles.max_rows(len(texts))
        self._table = np.zeros(TABLE, np.uint32)
        for batch in shingles.batches(texts):
            grams = shingles.ordered(batch, WORDS).hashes
            np.add.at(self._table, self._slot(grams), np.uint32(1))

    def without(self, grams: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leave out boilerplate; a text that is nothing else keeps it."""
        rare = self._table[self._slot(grams)] <= self._limit
        has_rare = np.isin(owners, owners[rare])
        keep = rare | ~has_rare
        return grams[keep], owners[keep]

    @staticmethod
    def _slot(grams: np.ndarray) -> np.ndarray:
        return (grams & np.uint64(TABLE - 1)).astype(np.int64)


def _borrow(signatures: np.ndarray) -> None:
    """Fill empty bins from others of their row, in an order that is the same for all rows."""
    asked = np.random.default_rng(64).integers(0, BINS, (DONORS, BINS))
    for start in range(0, len(signatures), ROWS):
        part = signatures[start : start + ROWS]
        before = part.copy()  # what was borrowed is not lent again
        rows, bins = np.nonzero(part == EMPTY)
        for donors in asked:
            own = before[rows, donors[bins]]
            lent = own != EMPTY
            part[rows[lent], bins[lent]] = own[lent]
            rows, bins = rows[~lent], bins[~lent]


def _matched(signatures: np.ndarray, filled: np.ndarray, compared: "_Compared") -> np.ndarray:
    found = np.full(len(signatures), -1, np.int64)
    for start in range(0, BINS, BAND):
        rows = np.flatnonzero(filled & (found < 0))
        keys = shingles.joined(signatures[rows, start : start + BAND])
        order = np.argsort(keys, kind="stable")
        rows, keys = rows[order], keys[order]
        new = np.concatenate([[True], keys[1:] != keys[:-1]])
        first = rows[np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))]
        # Rows of a bucket are compared with its first and with the one before: as many pairs as
        # rows, however many are alike.
        pairs = [(first, rows), (rows[:-1], rows[1:])]
        follows = [~new, ~new[1:]]
        for (left, right), inside in zip(pairs, follows, strict=True):
            left, right = left[inside], right[inside]
            open_ = found[right] < 0
            left, right = left[open_], right[open_]
            # The estimate, less two of its deviations for short texts.
            likely = (signatures[left] == signatures[right]).mean(1) > SIMILAR - 0.3
            left, right = left[likely], right[likely]
            alike = compared.similar(left, right)
            found[right[alike]] = left[alike]
    return found


class _Compared:
    """Compares pairs of texts exactly."""

    def __init__(self, texts: Sequence[str], common: _Common):
        self._texts, self._common = texts, common

    def similar(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return which pairs are near: bool [pairs]."""
        found = [np.zeros(0, bool)]
        for start in range(0, len(left), PAIRS):
            part = slice(start, start + PAIRS)
            sets = self._sets(np.union1d(left[part], right[part]))
            pairs = zip(left[part].tolist(), right[part].tolist(), strict=True)
            found.append(np.array([_jaccard(sets[a], sets[b]) >= SIMILAR for a, b in pairs]))
        return np.concatenate(found)

    def _sets(self, rows: np.ndarray) -> dict[int, np.ndarray]:
        chosen = (self._texts[row] for row in rows.tolist())
        parts = [
            self._common.without(*shingles.ngrams(batch, WORDS))
            for batch in shingles.batches(chosen)
        ]
        grams, owners = (np.concatenate(each) for each in zip(*parts, strict=True))
        bounds = np.searchsorted(owners, np.arange(len(rows) + 1))
        return {row: grams[bounds[n] : bounds[n + 1]] for n, row in enumerate(rows.tolist())}


def _jaccard(left: np.ndarray, right: np.ndarray) -> float:
    both = len(np.intersect1d(left, right, assume_unique=True))
    return both / max(len(left) + len(right) - both, 1)
