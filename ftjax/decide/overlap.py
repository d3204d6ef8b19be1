"""Test rows that training has seen: the same id, the same question, or many of its 13-grams.

A row counts as seen when `share` of its word 13-grams occur in training rows; one with fewer than
13 words when its whole text does. Small letters and words alone are compared.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SIZE = 13  # words; as in the reports of GPT-3 (arXiv:2005.14165) and of many since
SHARE = 0.3  # of a row's n-grams: a stock phrase in common is no leak
WORD = re.compile(r"\w+")


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
    ids, seen = set(), set()
    for each in train:
        ids.add(each.id)
        seen.update(_grams(each.text))
    ids.discard(None)
    by_id = [each for each in test if each.id in ids]
    by_text = [each for each in test if _share(each.text, seen) >= share]
    return Overlap(by_id, by_text)


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


def _share(text: str, seen: set) -> float:
    grams = _grams(text)
    return sum(gram in seen for gram in grams) / len(grams)


def _grams(text: str) -> list[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    count = max(1, len(words) - SIZE + 1)
    return [tuple(words[i : i + SIZE]) for i in range(count)]
