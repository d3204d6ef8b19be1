"""What a change of weights looks like: ranks, intruders, and how activations moved.

Weights are matrices [in, out], y = h W, as the models have them; W0 is the base's, dW = W - W0.

    change_rank      min k with sum_{i<=k} s_i^2 >= energy * sum s_i^2, s the singular values of dW
    effective_rank   exp(-sum p_i ln p_i), p = s / sum s                    (Roy & Vetterli, 2007)
    relative_norm    |dW|_F / |W0|_F
    response         E|h dW|^2 / E|h W0|^2 over inputs h: the same where the inputs are
    intruders        singular vectors of W unlike all of W0's               arXiv:2410.21228
    procrustes       min_R |X0 R - X1|_F^2 / |X0|_F^2, R orthogonal; X centred
    cka              |X0' X1|_F^2 / (|X0' X0|_F |X1' X1|_F), X centred       arXiv:1905.00414

NumPy in float64. None of them has a better direction, but for cka, where 1 is unchanged.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ftjax.core import blas, tree
from ftjax.ops import lowrank

SIDES = ("output", "input")
MARGIN = 1.5  # of a threshold over its null level: below it, chance alone makes vectors "known"


class Layer(NamedTuple):
    """One matrix of a model before and after, [in, out]; index counts layers, then experts."""

    path: str
    index: int
    before: np.ndarray
    after: np.ndarray


class Intruders(NamedTuple):
    """The intruders' ranks among W's singular vectors, and the similarity of each of the top k."""

    ranks: list[int]
    similarity: np.ndarray
    null: float


def layers(before: Mapping, after: Mapping, linears: Mapping[str, Any]) -> Iterator[Layer]:
    """Yield every linear map of two models of one architecture, as matrices.

    before, after: the weights, without adapters: merge them first.
    """
    old, new = tree.paths(before), tree.paths(after)
    for path, site in linears.items():
        if path in old:
            both = [_matrices(site, each[path]) for each in (old, new)]
            for index, (w0, w) in enumerate(zip(*both, strict=True)):
                yield Layer(path, index, w0, w)


def _matrices(site, w) -> np.ndarray:
    view = lambda w: lowrank.matrix(site.equation, w)
    found = view(w) if site.layers is None else jax.vmap(view)(w)
    return np.asarray(found, np.float64).reshape(-1, *found.shape[-2:])


def change_rank(change: np.ndarray, *, energy: float = 0.9) -> int:
    """Count the singular values of dW [in, out] that hold a part of its energy; 0 for no change."""
    return rank_of(blas.svd(_wide(change), compute_uv=False), energy=energy)


def rank_of(values: np.ndarray, *, energy: float = 0.9) -> int:
    """Count those of the singular values, falling, that hold a part of their energy."""
    if not 0 < energy <= 1:
        raise ValueError(f"energy: got {energy}; expected 0 < energy <= 1, such as 0.9")
    if not values.any():
        return 0
    # The last sums round to just below 1.
    return int(np.searchsorted(energy_of(values), energy - 1e-12) + 1)


def energy_of(values: np.ndarray) -> np.ndarray:
    """Return the part of the energy that the first 1, 2, ... singular values hold."""
    squares = np.square(_wide(values))
    return np.cumsum(squares) / squares.sum() if squares.any() else np.ones(len(squares))


def effective_rank(change: np.ndarray) -> float:
    """Compute the exponential of the entropy of dW's singular values; k equal ones give k."""
    return effective_rank_of(blas.svd(_wide(change), compute_uv=False))


def effective_rank_of(values: np.ndarray) -> float:
    """Compute the exponential of the entropy of singular values; 0 where all are."""
    if not values.any():
        return 0.0
    p = values[values > 0] / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def relative_norm(before: np.ndarray, after: np.ndarray) -> float:
    """Compute |W - W0|_F / |W0|_F."""
    before = _wide(before)
    return float(np.linalg.norm(_wide(after) - before) / np.linalg.norm(before))


def response(before: np.ndarray, after: np.ndarray, inputs: np.ndarray) -> float:
    """Compute E|h dW|^2 / E|h W0|^2 over inputs h [n, in]: what of the change the inputs meet."""
    before, inputs = _wide(before), _wide(inputs)
    moved = np.square(inputs @ (_wide(after) - before)).sum()
    return float(moved / np.square(inputs @ before).sum())


# -- intruders -------------------------------------------------------------------------------------


def intruders(
    before: np.ndarray, after: np.ndarray, *, side: str = "output", top: int = 10,
    threshold: float = 0.5, null: float | None = None, known: np.ndarray | None = None,
) -> Intruders:  # fmt: skip
    """Find the first singular vectors of W that are unlike every one of W0's.

    Args:
      before, after: W0 and W [in, out].
      side: whose vectors: "output" (right ones here, left ones of torch's [out, in], as in
        arXiv:2410.21228) or "input".
      top: how many of W's, by their singular values.
      threshold: a vector u_j is an intruder if max_i |<u_j, u0_i>| is below it.
      null: see `null_level`, of this shape; found where it is not given.
      known: the `vectors` of W0 on that side; found where they are not given.

    Raises:
      ValueError: an unknown side, or a threshold below 1.5 times the null level: then a random
        vector would hardly count as an intruder.
    """
    known = vectors(before, side=side) if known is None else known
    found = vectors(after, side=side)[:, :top]
    null = null_level(*known.shape) if null is None else null
    if threshold < MARGIN * null:
        raise ValueError(
            f"threshold: got {threshold}, where random directions have similarities up to "
            f"{null:.3f}; expected at least {MARGIN * null:.3f} for {known.shape[1]} vectors of "
            f"{known.shape[0]} numbers; raise it, or leave matrices as small out"
        )
    similarity = np.abs(known.T @ found).max(0)
    return Intruders([int(j) for j in np.flatnonzero(similarity < threshold)], similarity, null)


@functools.cache  # the same for all matrices of a shape
def null_level(
    dimension: int, count: int, *, quantile: float = 0.95, draws: int = 2000, seed: int = 0
) -> float:
    """Estimate how alike a random direction is to the nearest of `count` orthogonal ones.

    The quantile of max_i |<g, u_i>| / |g| over random g in `dimension` numbers, which does not
    depend on which orthogonal directions u_i there are: the first axes stand for them.
    """
    generator, levels = np.random.default_rng(seed), np.empty(draws)
    for i in range(draws):
        g = generator.normal(size=dimension)
        levels[i] = np.abs(g[:count]).max() / np.linalg.norm(g)
    return float(np.quantile(levels, quantile))


def reduce_intruders(
    before: np.ndarray, after: np.ndarray, *, strength: float, **options
) -> np.ndarray:
    """Scale the intruders of W down, W + (strength - 1) sum_j s_j u_j v_j'; 1 changes nothing.

    options: those of `intruders`.
    """
    found = intruders(before, after, **options).ranks
    u, s, v = blas.svd(_wide(after), full_matrices=False)
    return _wide(after) + (strength - 1) * (u[:, found] * s[found]) @ v[found]


def vectors(w: np.ndarray, *, side: str) -> np.ndarray:
    """Compute the singular vectors of one side as columns, by falling singular values."""
    if side not in SIDES:
        raise ValueError(f"side: got {side!r}; expected one of {', '.join(SIDES)}")
    u, _, v = blas.svd(_wide(w), full_matrices=False)
    return u if side == "input" else v.T


# -- activations -----------------------------------------------------------------------------------


def procrustes(before: np.ndarray, after: np.ndarray) -> float:
    """Compute what is left of X1 - X0 after the best rotation, relative to X0; rows are tokens.

    min_R |X0 R - X1|^2 = |X0|^2 + |X1|^2 - 2 |X0' X1|_*, over orthogonal R (Schoenemann, 1966).
    """
    x, y = _centred(before), _centred(after)
    nuclear = blas.svd(x.T @ y, compute_uv=False).sum()
    left = np.square(x).sum() + np.square(y).sum() - 2 * nuclear
    return float(max(left, 0.0) / np.square(x).sum())


def cka(before: np.ndarray, after: np.ndarray) -> float:
    """Compute the linear centred kernel alignment of X0, X1 [n, D]; 1 up to rotation and scale."""
    x, y = _centred(before), _centred(after)
    norm = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.square(x.T @ y).sum() / norm)


def _centred(x) -> np.ndarray:
    x = _wide(x)
    return x - x.mean(0)


def _wide(x) -> np.ndarray:
    return np.asarray(x, np.float64)
