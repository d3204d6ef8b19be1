"""How much of the evaluations is in the training data: 13-grams of words (arXiv:2005.14165, C).

    grams = EvalGrams({"evals.facts": texts})
    found = grams.compare(texts of the training rows)
    found.rows["evals.facts"], found.examples["evals.facts"], found.touching

A text of an evaluation is in the training data when one of its n-grams is: of 13 words, or all of
its words where it has fewer, which only a text of the same words shares. N-grams of boilerplate,
which more than ten training rows and a tenth of them all have, do not count, nor do those that lie
in it for the most part.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.data import shingles

WORDS = 13


class Overlap(NamedTuple):
    """What evaluations and training data share, by evaluation.

    sizes: texts of the evaluation. rows: of them, those that are in the training data. examples:
    one of these, and one training row that it is in. touching: all such training rows, in order.
    """

    sizes: dict[str, int]
    rows: dict[str, int]
    examples: dict[str, tuple[int, int]]
    touching: np.ndarray


class EvalGrams:
    """The n-grams of evaluations, sorted, with whose they are and where."""

    def __init__(self, texts: Mapping[str, Sequence[str]]):
        self.sizes = {label: len(own) for label, own in texts.items()}
        self._of = {label: _grams(own) for label, own in texts.items()}
        hashes = [np.zeros(0, np.uint64), *(own.hashes for own in self._of.values())]
        self.grams = np.unique(np.concatenate(hashes))

    def compare(self, texts: Sequence[str]) -> Overlap:
        """Look for them in the texts of training rows, read once and in order."""
        limit = shingles.max_rows(len(texts))
        counts = np.zeros(len(self.grams), np.int64)
        pairs = [np.zeros((2, 0), np.int64)]
        for batch in shingles.batches(texts) if len(self.grams) else ():
            grams = shingles.ordered(batch, WORDS)
            at = np.searchsorted(self.grams, grams.hashes)
            at[at == len(self.grams)] = 0
            hit = self.grams[at] == grams.hashes
            at, owners = np.unique(np.stack([at[hit], grams.owners[hit]]), axis=1)
            np.add.at(counts, at, 1)
            few = counts[at] <= limit  # the pairs of boilerplate could be as many as the n-grams
            pairs.append(np.stack([at[few], owners[few]]))
        at, owners = np.concatenate(pairs, axis=1)
        return self._found((counts > 0) & (counts <= limit), counts > limit, at, owners)

    def _found(self, shared, common, at: np.ndarray, owners: np.ndarray) -> Overlap:
        """Collect what is found; shared, common: by n-gram. at, owners: n-gram and training row."""
        rows, examples, counted = {}, {}, np.zeros(len(self.grams), bool)
        for label, own in self._of.items():
            places = np.searchsorted(self.grams, own.hashes)
            held = np.flatnonzero(shared[places] & _is_free(own, common[places]))
            rows[label] = len(np.unique(own.owners[held]))
            counted[places[held]] = True
            if len(held):
                first = owners[at == places[held[0]]][0]
                examples[label] = int(own.owners[held[0]]), int(first)
        return Overlap(self.sizes, rows, examples, np.unique(owners[counted[at]]))


def _is_free(own: shingles.Grams, common: np.ndarray) -> np.ndarray:
    """Return which n-grams have half of their words, or more, outside of boilerplate: bool [N].

    One that begins in the frame of a prompt is found by chance: its last word or two are common.
    """
    if not len(own.starts):
        return np.zeros(0, bool)
    edges = np.zeros(own.starts[-1] + own.lengths[-1] + 2, np.int64)
    np.add.at(edges, own.starts[common], 1)
    np.add.at(edges, (own.starts + own.lengths)[common], -1)
    covered = np.concatenate([[0], np.cumsum(np.cumsum(edges) > 0)])
    inside = covered[own.starts + own.lengths] - covered[own.starts]
    return 2 * inside <= own.lengths


def _grams(texts: Sequence[str]) -> shingles.Grams:
    found, words = [], 0
    for batch in shingles.batches(texts):
        grams = shingles.ordered(batch, WORDS)
        found.append(grams._replace(starts=grams.starts + words))
        words = found[-1].starts[-1] + found[-1].lengths[-1] if len(grams.starts) else words
    none = shingles.Grams(np.zeros(0, np.uint64), *(np.zeros(0, np.int64) for _ in range(3)))
    return shingles.Grams(*(np.concatenate(each) for each in zip(none, *found, strict=True)))
