"""GaLore (arXiv:2403.03507): the optimizer sees each gradient through its largest directions.

    g = P r or r P^T        P: the first `rank` singular vectors of g on its shorter side
    u = scale * P direction(P^T g)                  or scale * direction(g P) P^T

P is found anew every so many steps, of the gradient of that step; moments stay in the coordinates
of the old one, as in the authors' code. They are as small as the rank. Weights that are no linear
map, and those whose shorter side is the rank or less, have the plain direction.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftjax.core import tree
from ftjax.core.typed import Count, Positive
from ftjax.ops import decompositions, lowrank, products

# Directions that read gradients alone: of others the weights would have to be projected too.
DIRECTIONS = ("adam", "adamw", "amsgrad", "lion", "nadam", "nadamw", "rmsprop", "sgd", "adabelief")


class State(NamedTuple):
    """Finished steps, projections in the structure of the parameters, the direction's state.

    What is not projected has a zero in its projection's place.
    """

    count: jax.Array
    projections: Any
    inner: optax.OptState


class View(NamedTuple):
    """A weight as matrices [.., in, out]: its equation, and whether layers are stacked in front."""

    equation: str
    is_stacked: bool

    def of(self, w: jax.Array) -> tuple[jax.Array, Callable]:
        """Return the matrices and the function that brings such back into the form of `w`."""
        one = lambda w: lowrank.matrix(self.equation, w)
        found, back = jax.vjp(jax.vmap(one) if self.is_stacked else one, w)
        # A view only moves entries, so that its transpose, the vjp, moves them back.
        return found, lambda matrices: back(matrices)[0]


def make(
    inner: optax.GradientTransformationExtraArgs, *, views: Mapping[str, View], rank: Count,
    every_steps: Count = 200, scale: Positive = 0.25,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
    """Put it around a direction; views: of every linear map that may train, by path.

    rank: of what the direction sees. every_steps: how often its subspace is found anew. scale: of
    the moves of projected weights.
    """

    def acts(path: str, w) -> bool:
        return path in views and min(_shape(views[path], w)[-2:]) > rank

    def init(params):
        of = lambda path, w: _blank(views[path], w, rank) if acts(path, w) else jnp.zeros(())
        own = tree.map_with_paths(of, params)
        low = lambda path, w, p: _lowered(views[path], w, p) if acts(path, w) else w
        inner_state = inner.init(tree.map_with_paths(low, params, own))
        return State(jnp.zeros((), jnp.int32), own, inner_state)

    def update(updates, state, params, **extra):
        del params
        find = lambda path, g, p: _find(views[path], g, rank) if acts(path, g) else p
        low = lambda path, g, p: _lowered(views[path], g, p) if acts(path, g) else g
        fresh = lambda: tree.map_with_paths(find, updates, state.projections)
        is_time = state.count % every_steps == 0
        own = jax.lax.cond(is_time, fresh, lambda: state.projections)
        seen = tree.map_with_paths(low, updates, own)
        # For those that multiply a decay of 0 with the weights.
        nothing = jax.tree.map(jnp.zeros_like, seen)
        moves, inner_state = inner.update(seen, state.inner, nothing, **extra)

        def back(path, g, move, p):
            return scale * _raised(views[path], move, p, g) if acts(path, g) else move

        moves = tree.map_with_paths(back, updates, moves, own)
        return moves, State(optax.safe_increment(state.count), own, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _shape(view: View, w) -> tuple[int, ...]:
    return jax.eval_shape(lambda w: view.of(w)[0], w).shape


def _blank(view: View, w, rank: int) -> jax.Array:
    *lead, m, n = _shape(view, w)
    return jnp.zeros((*lead, min(m, n), rank), jnp.float32)


def _find(view: View, g: jax.Array, rank: int) -> jax.Array:
    """Return the first singular vectors of a gradient on its shorter side."""
    m, _ = view.of(g)
    u, _, v = decompositions.svd(m.astype(jnp.float32))
    return u[..., :rank] if m.shape[-2] <= m.shape[-1] else v[..., :rank, :].mT


def _lowered(view: View, g: jax.Array, p: jax.Array) -> jax.Array:
    """Project a gradient."""
    m, _ = view.of(g)
    low = (p.mT, m) if m.shape[-2] <= m.shape[-1] else (m, p)
    return jnp.matmul(*low, precision=products.HIGHEST)


def _raised(view: View, move: jax.Array, p: jax.Array, g: jax.Array) -> jax.Array:
    """Bring the move of a projected weight back into its form."""
    m, back = view.of(g)
    full = (p, move) if m.shape[-2] <= m.shape[-1] else (move, p.mT)
    return back(jnp.matmul(*full, precision=products.HIGHEST).astype(m.dtype))
