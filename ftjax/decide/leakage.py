"""Test rows that training has seen: the same id, the same question, or many of its 13-grams.

A row counts as seen when `share` of its word 13-grams occur in training rows; one with fewer than
13 words when its whole text does. Small letters and words alone are compared.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.data import shingles

SIZE = 13  # words; as in the reports of GPT-3 (arXiv:2005.14165) and of many since
SHARE = 0.3  # of a row's n-grams: a stock phrase in common is no leak


class Item(NamedTuple):
    """What of a row may leak: its id, if it has one, its question, and where it is from."""

    id: str | None
    text: str
    where: str


class Overlap(NamedTuple):
    """Test rows that training has, by id and by text."""

    by_id: list[Item]
    by_text: list[Item]


def find(train: Iterable[Item], test: Sequence[Item], *, share: float = SHARE) -> Overlap:
    """Find the test rows that overlap with training rows."""
    train = list(train)
    ids = {each.id for each in train} - {None}
    seen = _grams(train)[0]
    grams, owners = _grams(test)
    total, known = (
        np.bincount(own, minlength=len(test)) for own in (owners, owners[np.isin(grams, seen)])
    )
    by_text = [
        each for each, n, of in zip(test, known, total, strict=True) if of and n >= share * of
    ]
    return Overlap([each for each in test if each.id in ids], by_text)


def refuse(found: Overlap, *, train: str, test: str) -> None:
    """Raise where anything overlaps.

    Raises:
      ValueError: with counts and the first row of each kind.
    """
    if not found.by_id and not found.by_text:
        return
    first = (found.by_id or found.by_text)[0]
    raise ValueError(
        f"{test}: got {len(found.by_id)} rows whose id, and {len(found.by_text)} whose text, "
        f"{train} has too, the first {first.where} ({first.text[:60]!r}); expected none, since "
        "their scores would measure memory; take them out of one of the two"
    )


def _grams(items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashed n-grams of texts, each once a text, and the number of their text."""
    found = [shingles.ngrams(batch, SIZE) for batch in shingles.batches(x.text for x in items)]
    empty = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    return tuple(np.concatenate(each) for each in zip(empty, *found, strict=True))
