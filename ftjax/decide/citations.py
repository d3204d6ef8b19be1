"""Whether answers stand in the passages that they cite, and how they fare where retrieval hit.

cited           share of answers that occur, as words, in a cited passage
given hit/miss  the score over items whose gold passage was among the cited ones, and over others
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Share of hits, and the mean score on either side; None where a side has no items."""

    hits: float
    hit: float | None
    miss: float | None


def cited(
    answers: Sequence[str], passages: Sequence[Sequence[str]], *, normalize: Callable[[str], str]
) -> np.ndarray:  # fmt: skip
    """Return whether each answer occurs in one of its cited texts, bool [n]; an empty one never.

    Whole words count: "art" does not occur in "party".
    """
    found = []
    for answer, texts in zip(answers, passages, strict=True):
        words = _spaced(normalize(answer))
        found.append(bool(words.strip()) and any(words in _spaced(normalize(t)) for t in texts))
    return np.array(found, bool)


def _spaced(text: str) -> str:
    """Set punctuation apart, as words of its own, and a space around all."""
    apart = "".join(c if c.isalnum() else f" {c} " for c in text)
    return f" {' '.join(apart.split())} "


def split(scores: Sequence[float], hits: Sequence[bool]) -> Split:
    """Average scores [n] over items that were hit and over the others."""
    scores, hits = np.asarray(scores, np.float64), np.asarray(hits, bool)
    mean = lambda own: float(scores[own].mean()) if own.any() else None
    return Split(float(hits.mean()), mean(hits), mean(~hits))
