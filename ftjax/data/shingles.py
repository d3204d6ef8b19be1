"""Texts as sets of hashed word n-grams, for finding those that share much or copy each other.

    for batch in batches(texts): grams, owners = ngrams(batch, 13)

A word is a run of letters and digits without regard to case; of scripts that put no spaces between
words (from U+3000 on) each character is one. A text of fewer than n words gives one n-gram of all
its words. All of it is arithmetic on arrays of bytes: some hundred megabytes of text a minute.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

# Bytes of text at a time, which bounds the memory, and characters of a piece of a longer text.
BATCH, PIECE = 2**21, 2**19
SEPARATOR, LETTER, WORD = 0, 1, 2
# Fixed, since hashes of one process must be those of another.
_RNG = np.random.default_rng(13)
_BYTES = _RNG.integers(1, 2**63, 256, dtype=np.uint64)
_PLACES = _RNG.integers(1, 2**63, 64, dtype=np.uint64) | np.uint64(1)
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 2**64)


def _kinds() -> np.ndarray:
    """Return what a first byte of a UTF-8 character begins: uint8 [256]."""
    kinds = np.full(256, LETTER, np.uint8)
    kinds[:128] = [LETTER if chr(n).isalnum() else SEPARATOR for n in range(128)]
    kinds[0xC2] = kinds[0xE2] = SEPARATOR  # signs of Latin-1; general punctuation and symbols
    kinds[0xE3:] = WORD
    return kinds


_KINDS = _kinds()


def max_rows(count: int) -> int:
    """Return in how many of so many rows an n-gram may be and not be boilerplate.

    A prompt's frame is in all rows of a task, and says nothing about which rows are alike.
    """
    return max(10, count // 10)


class Batch(NamedTuple):
    """Texts, or pieces of them, and the number of the text that each is of."""

    texts: list[str]
    owners: list[int]


def text_of(row: Mapping) -> str:
    """Return what is said in a checked row: prompt, response, messages, answers."""
    return "\n".join(_said(row))


def _said(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key not in ("role", "tools"):  # what many rows have in common
                yield from _said(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _said(each)


def batches(texts: Iterable[str]) -> Iterator[Batch]:
    """Yield all texts in order, long ones in pieces, in batches of bounded size."""
    batch, size = Batch([], []), 0
    for owner, text in enumerate(texts):
        for start in range(0, max(len(text), 1), PIECE):
            piece = text[start : start + PIECE]
            batch.texts.append(piece)
            batch.owners.append(owner)
            size += len(piece)
            if size >= BATCH:
                yield batch
                batch, size = Batch([], []), 0
    if batch.texts:
        yield batch


class Grams(NamedTuple):
    """N-grams in the order of the texts.

    hashes: uint64 [N]. owners: int64 [N], whose they are. starts, lengths: int64 [N], where each
    begins among the words of the batch, and how many it has.
    """

    hashes: np.ndarray
    owners: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def ordered(batch: Batch, n: int) -> Grams:
    """Return the n-grams of a batch in order; a text of fewer words has one, of all of them."""
    words, bounds = _words(batch.texts)
    counts = np.diff(bounds)
    sizes = np.maximum(counts - n + 1, counts > 0)
    ends = np.cumsum(sizes)
    starts = np.arange(sizes.sum()) + np.repeat(bounds[:-1] - (ends - sizes), sizes)
    lengths = np.minimum(np.repeat(counts, sizes), n)
    hashes, padded = np.zeros(len(starts), np.uint64), np.concatenate([words, words[:n]])
    for k in range(n):
        inside = lengths > k
        hashes[inside] += padded[starts[inside] + k] * _PLACES[k]
    owners = np.repeat(np.asarray(batch.owners, np.int64), sizes)
    return Grams(_mixed(hashes), owners, starts, lengths)


def ngrams(batch: Batch, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of the n-grams of a batch, and whose they are: uint64 [N], int64 [N].

    Each n-gram comes once a text, in the order of (text, hash).
    """
    found = ordered(batch, n)
    return _once(found.hashes, found.owners)


def _once(grams: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((grams, owners))
    grams, owners = grams[order], owners[order]
    new = np.ones(len(grams), bool)
    new[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
    return grams[new], owners[new]


def _words(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of all words in order, and the place of each text's first: [texts + 1]."""
    raw = [text.lower().encode("utf-8", "replace") for text in texts]
    data = np.frombuffer(b"".join(each + b"\n" for each in raw), np.uint8)
    begins = np.cumsum([0, *(len(each) + 1 for each in raw)])
    places = np.arange(len(data))
    leads = (data & 0xC0) != 0x80
    kinds = _KINDS[data[np.maximum.accumulate(np.where(leads, places, 0))]]
    before = np.concatenate([[SEPARATOR], kinds[:-1]])
    starts = ((kinds == LETTER) & (before != LETTER)) | ((kinds == WORD) & leads)
    # The last byte of a word: nothing, or another word, follows. Every text ends in a separator.
    ends = (kinds != SEPARATOR) & (np.concatenate([starts[1:], [True]]) | (_next(kinds) != kinds))
    first, last = np.flatnonzero(starts), np.flatnonzero(ends)
    powers = np.multiply.accumulate(np.full(len(data), _BASE, np.uint64))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(_BYTES[data] * powers)])
    inverse = np.multiply.accumulate(np.full(len(data), _INVERSE, np.uint64))
    return _mixed((sums[last + 1] - sums[first]) * inverse[first]), np.searchsorted(first, begins)


def _next(kinds: np.ndarray) -> np.ndarray:
    return np.concatenate([kinds[1:], [SEPARATOR]])


def joined(values: np.ndarray) -> np.ndarray:
    """Return one hash of each row of uint32 [rows, columns]: uint64 [rows]."""
    return _mixed((values * _PLACES[: values.shape[1]]).sum(1, dtype=np.uint64))


def _mixed(x: np.ndarray) -> np.ndarray:
    """Spread every bit of uint64 over all of them: the finalizer of SplitMix64 (Steele, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
