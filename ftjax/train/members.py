"""Many runs as one program: what differs between them has a leading axis M, the base has none.

    state = Members(jnp.int32(0), stack(padded states), jnp.ones(M, bool))
    step = make_step(one, how="map")                  # `one(state, hyper, frozen, batch)` of a run
    state, metrics = step(state, hyper, Frozen(shared, each), batch)       metrics are arrays [M]

Each member has its own adapters, moments, key, numbers, frozen factors and batch. Ranks may differ:
`pad` fills up with zeros to the largest, which stay zero, since a product of two zeros has no
gradient and an update of nothing is nothing. A member whose loss is not finite keeps the state that
it had before, from then on; so does one that is switched off in `alive`.

`how` is `map`, one member after another, or `vmap`, all at once. On a CPU a batched product is
slower than its parts, and needs the temporaries of all; on an accelerator it fills the chip. The
axis `member` of a mesh gives each of its parts as many members, which it trains in either way: no
device waits for one of another part.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.train import state as states

# One after the other inside a program (the memory of one), or all at once (larger matmuls).
HOW = ("map", "vmap")
REPEATS = 3  # steps that a way is timed with, after the one that compiles

Tree = Any


class Members(NamedTuple):
    """The state of M members."""

    step: jax.Array  # int32 []: steps that the program has done
    each: states.State  # every leaf [M, ...]; a member that has ended keeps the step of its end
    alive: jax.Array  # bool [M]: which of them still train


class Frozen(NamedTuple):
    """What no step changes, in two trees with holes for each other."""

    shared: Tree  # one for all: the base, a teacher
    each: Tree  # [M, ...]: scales and other data of adapters, what penalties compare with


def make_step(one: Callable, *, how: str) -> Callable:
    """Make `(Members, hyper, Frozen, batch) -> (Members, metrics)` of the step of one run.

    one: `(state, hyper, frozen, batch) -> (state, metrics)`; a metric is a scalar or a `Mean`, and
      "loss" is among them. hyper, batch: every leaf [M, ...].
    how: one of HOW. Metrics of members that have ended are zeros.
    """

    def train(shared, given):
        member = lambda own: _member(one, shared, *own)
        return jax.vmap(member)(given) if how == "vmap" else jax.lax.map(member, given)

    def step(state: Members, hyper: Tree, frozen: Frozen, batch: Tree):
        given = (state.each, state.alive, hyper, frozen.each, batch)
        mesh, run = meshes.current(), train
        if mesh is not None and mesh.shape[meshes.MEMBER] > 1:
            # Each part of the axis by itself: nothing that members do asks for another's arrays.
            apart = jax.P(meshes.MEMBER)
            options = dict(axis_names={meshes.MEMBER}, check_vma=False)
            run = jax.shard_map(train, in_specs=(jax.P(), apart), out_specs=apart, **options)
        each, alive, metrics = run(frozen.shared, given)
        return Members(state.step + 1, each, alive), metrics

    return step


def _member(one: Callable, shared: Tree, state, alive, hyper: Tree, own: Tree, batch: Tree):
    frozen = tree.combine(own, shared)

    def go(state):
        new, metrics = one(state, hyper, frozen, batch)
        fine = jnp.isfinite(metrics["loss"])
        # Here and not on the host, which reads a loss when the next steps are on their way.
        kept = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, state)
        return kept, fine, metrics

    def stay(state):
        absent = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(go, state)[2])
        return state, jnp.zeros((), bool), absent

    # Under `map` a member that has ended costs nothing; under `vmap` both sides are computed.
    return jax.lax.cond(alive, go, stay, state)


def end(state: Members, index: int) -> Members:
    """Switch a member off: its state stays as it is."""
    # Where it was, or the step would be compiled once more.
    off = jax.jit(lambda alive, i: alive.at[i].set(False), out_shardings=state.alive.sharding)
    return state._replace(alive=off(state.alive, index))


# -- padding ---------------------------------------------------------------------------------------


def widest(abstract: Sequence[Tree]) -> Tree:
    """Return the shapes that hold every member's: along each axis the largest size.

    abstract: a tree of one structure for each member.
    """
    size = lambda *leaves: tuple(map(max, zip(*(x.shape for x in leaves), strict=True)))
    return jax.tree.map(lambda *xs: jax.ShapeDtypeStruct(size(*xs), xs[0].dtype), *abstract)


def pad(own: Tree, like: Tree) -> Tree:
    """Fill arrays up with zeros at the end of every axis to the shapes of `like`."""

    def one(leaf, wide):
        gaps = [(0, big - small) for small, big in zip(leaf.shape, wide.shape, strict=True)]
        return jnp.pad(leaf, gaps) if any(gap for _, gap in gaps) else leaf

    return jax.tree.map(one, own, like)


def cut(padded: Tree, like: Tree) -> Tree:
    """Take what `pad` was given: the beginning of every axis, of the size that `like` has."""

    def one(leaf, small):
        whole = leaf.shape == small.shape
        return leaf if whole else leaf[tuple(slice(size) for size in small.shape)]

    return jax.tree.map(one, padded, like)


def stack(members: Sequence[Tree]) -> Tree:
    """Lay trees of equal shapes side by side, on a leading axis M."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def take(stacked: Tree, index: jax.typing.ArrayLike) -> Tree:
    """Return the arrays of one member, padded as they are."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def split(frozen: Tree, *, of: tuple[str, ...]) -> tuple[Tree, Tree]:
    """Part a frozen tree into what members share and what is a member's, by starts of paths."""
    pick = lambda own: lambda path, leaf: leaf if path.startswith(of) == own else None
    return tree.map_with_paths(pick(False), frozen), tree.map_with_paths(pick(True), frozen)


def share(base: Tree, frozen: Tree, *, of: tuple[str, ...]) -> Tree:
    """Return `frozen` with the arrays of `base` in the place of what members share."""
    return tree.combine(split(frozen, of=of)[1], split(base, of=of)[0])


# -- the faster way --------------------------------------------------------------------------------


def choose(steps: Mapping[str, Callable], arguments: Sequence[Tree]) -> tuple[str, dict]:
    """Time three steps of each way on copies of the state; returns the faster, and the seconds.

    steps: compiled ones by their `how`; they donate their first argument. One that does not fit
    into memory has infinite seconds.
    """
    seconds = {how: _seconds(step, arguments) for how, step in steps.items()}
    return min(seconds, key=seconds.__getitem__), seconds


def _seconds(step: Callable, arguments: Sequence[Tree]) -> float:
    state, *rest = arguments
    state = jax.tree.map(jnp.copy, state)
    try:
        state, metrics = step(state, *rest)  # compiles
        jax.block_until_ready(metrics)
        start = time.perf_counter()
        for _ in range(REPEATS):
            state, metrics = step(state, *rest)
        # Steps are dispatched ahead: without this only the dispatch would be timed.
        jax.block_until_ready((state, metrics))
    except jax.errors.JaxRuntimeError as error:
        # All members at once may not fit where one does: then this way is the slowest of all.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return float("inf")
    return (time.perf_counter() - start) / REPEATS
