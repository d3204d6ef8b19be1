"""Several rankings into one by reciprocal ranks (Cormack et al., SIGIR 2009).

    score(d) = sum_i w_i / (constant + rank_i(d))               rank 1 is the best, no hit adds 0

Ranks alone count, so scores of any scale join. Fusing a good index with a bad one may well be worse
than the good one alone: choose on validation questions.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ftjax.core import config as conf
from ftjax.core.typed import Count, Positive
from ftjax.retrieval import index
from ftjax.retrieval.passages import Passage

CONSTANT = 60.0  # of the paper: how little the first ranks stand out


class Fused:
    """Indexes that are searched together; see `index.Index`."""

    def __init__(self, indexes: Sequence[index.Index], weights, *, depth: int, constant: float):
        self._indexes, self._weights = indexes, weights
        self._depth, self._constant = depth, constant
        self.nbytes = sum(each.nbytes for each in indexes)

    def search(self, queries: Sequence[str], *, k: int) -> index.Hits:
        """Return the best `k` passages of each query."""
        depth = max(self._depth, k)
        found = [each.search(queries, k=depth).places for each in self._indexes]
        return reciprocal_ranks(found, k=k, weights=self._weights, constant=self._constant)

    def save(self, folder: pathlib.Path) -> None:
        """Write every index into a folder of its own."""
        for n, each in enumerate(self._indexes):
            (folder / str(n)).mkdir()
            each.save(folder / str(n))


def make(
    *, passages: Sequence[Passage],
    indexes: Iterable[Mapping] = (dict(name="bm25"), dict(name="dense")),
    weights: Iterable[Positive] = (), depth: Count = 100, constant: Positive = CONSTANT,
    embed=None,
) -> Fused:  # fmt: skip
    """Make every index and search them together.

    Args:
      indexes: two settings at least, each with its `name`.
      weights: of their ranks; none = all alike.
      depth: hits of each that count.
      constant: see above.
      embed: of dense indexes without a table.

    Raises:
      ValueError: fewer than two indexes, or as many weights as there are not indexes.
    """
    made = [
        index.build(spec, passages, where=f"index.indexes[{n}]", embed=embed)
        for n, spec in enumerate(indexes)
    ]
    return _join(made, weights, depth=depth, constant=constant)


def load(
    *, folder: pathlib.Path, passages: Sequence[Passage],
    indexes: Iterable[Mapping] = (dict(name="bm25"), dict(name="dense")),
    weights: Iterable[Positive] = (), depth: Count = 100, constant: Positive = CONSTANT,
    embed=None,
) -> Fused:  # fmt: skip
    """Map what `save` wrote from the disk."""
    made = []
    for n, spec in enumerate(indexes):
        where, own = f"index.indexes[{n}]", conf.to_dict(spec)
        read = conf.attribute(own.pop("name"), "retrieval", "load", where=where)
        kept = dict(folder=folder / str(n), passages=passages, embed=embed)
        made.append(conf.call(read, own, where=where, extra=kept))
    return _join(made, weights, depth=depth, constant=constant)


def _join(made: list, weights, *, depth: int, constant: float) -> Fused:
    weights = tuple(weights) or (1.0,) * len(made)
    if len(made) < 2 or len(weights) != len(made):
        raise ValueError(
            f"index: got {len(made)} indexes and {len(weights)} weights; expected two indexes at "
            "least, and a weight for each or none"
        )
    return Fused(made, weights, depth=depth, constant=constant)


def reciprocal_ranks(
    rankings: Sequence[np.ndarray], *, k: int, weights: Sequence[float] | None = None,
    constant: float = CONSTANT,
) -> index.Hits:  # fmt: skip
    """Fuse rankings, each places [queries, depth] with -1 where there is no hit.

    Of equal scores the passage with the lower place comes first.
    """
    weights, fused = weights or [1.0] * len(rankings), []
    for rows in zip(*rankings, strict=True):
        scores: dict[int, float] = {}
        for weight, places in zip(weights, rows, strict=True):
            for rank, place in enumerate(places, start=1):
                if place >= 0:
                    scores[int(place)] = scores.get(int(place), 0.0) + weight / (constant + rank)
        best = sorted(scores, key=lambda place: (-scores[place], place))[:k]
        fused.append((np.array(best, int), np.array([scores[p] for p in best], np.float32)))
    return index.stack(fused, k)
