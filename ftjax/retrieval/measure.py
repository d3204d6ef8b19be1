"""How good a ranking is, by which passages are known to answer each question.

    recall@k = |gold in the first k| / |gold|
    MRR      = mean over questions of 1 / rank of the first gold one (0 = not found)
    nDCG@k   = sum_{i<=k} gold_i / log2(1 + i)  over the same sum of an ideal ranking

Ranks count from 1; arrays are per question, so that a bootstrap can resample them.
"""

from collections.abc import Collection, Sequence

import numpy as np


def relevance(places: np.ndarray, gold: Sequence[Collection[int]]) -> np.ndarray:
    """Return whether each hit is gold: bool [n, k] of places [n, k].

    Raises:
      ValueError: as many questions as there are not golds, or a question without gold.
    """
    if len(places) != len(gold) or not all(gold):
        empty = next((i for i, each in enumerate(gold) if not each), None)
        raise ValueError(
            f"measure: got {len(places)} rankings and {len(gold)} sets of gold passages"
            + (f", the one of question {empty} empty" if empty is not None else "")
            + "; expected as many, none empty; leave questions without a known passage out"
        )
    found = [[int(place) in own for place in row] for row, own in zip(places, gold, strict=True)]
    return np.array(found, bool).reshape(np.shape(places))


def recall(places: np.ndarray, gold: Sequence[Collection[int]], *, k: int) -> np.ndarray:
    """Compute recall@k of each question, [n]."""
    return relevance(places, gold)[:, :k].sum(1) / [len(set(own)) for own in gold]


def reciprocal_rank(places: np.ndarray, gold: Sequence[Collection[int]]) -> np.ndarray:
    """Compute 1 / rank of the first gold passage of each question, [n]; 0 where none is found."""
    hit = relevance(places, gold)
    return np.where(hit.any(1), 1 / (1 + hit.argmax(1)), 0.0)


def ndcg(places: np.ndarray, gold: Sequence[Collection[int]], *, k: int) -> np.ndarray:
    """Compute nDCG@k of each question, [n], every gold passage being worth 1."""
    hit = relevance(places, gold)[:, :k]
    worth = 1 / np.log2(2 + np.arange(k))
    ideal = [worth[: len(set(own))].sum() for own in gold]
    return (hit * worth[: hit.shape[1]]).sum(1) / ideal


def summary(
    places: np.ndarray, gold: Sequence[Collection[int]], *, at: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Average recall and nDCG at some k, and the reciprocal rank, over questions."""
    found = {f"recall@{k}": recall(places, gold, k=k).mean() for k in at}
    found["mrr"] = reciprocal_rank(places, gold).mean()
    found |= {f"ndcg@{k}": ndcg(places, gold, k=k).mean() for k in at}
    return {name: float(value) for name, value in found.items()}
