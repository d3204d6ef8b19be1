"""The arrays of members: of runs that are alone, on an axis M, and back.

whole = Arrays(plans)                     shapes, places and the compiled step; no arrays
state, frozen = whole.start(firsts), whole.frozen(each)
whole.own(0)(state)                       the state of a member, as it would be alone
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ftjax.adapters.lib import protocol
from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.run import hyper, saved_state
from ftjax.run import plan as plans
from ftjax.train import compile as compiling
from ftjax.train import members as members_lib
from ftjax.train import state as states
from ftjax.train.members import Frozen, Members

OWN = ("adapters/", "reference/adapters/", "penalties/")  # frozen arrays that members do not share


class Arrays:
    """What the members of some plans are as one; see above."""

    def __init__(self, found: Mapping[str, plans.Plan]):
        """Check that the arrays of plans, by the names of members, lie side by side.

        Raises:
          ValueError: they do not; naming the member and the site.
        """
        self.plans = list(found.values())
        _check(found)
        self._mesh = self.plans[0].parts.mesh
        _check_spread(len(found), self._mesh)
        self._apart = self._place(())
        self._wide = members_lib.widest([p.state for p in self.plans])
        self.state = self._abstract()
        self._places = saved_state.shardings_of(self.state)
        self._cuts: dict[Any, Any] = {}

    def _abstract(self) -> Members:
        count, everywhere = len(self.plans), meshes.replicated(self._mesh)

        def one(wide, like):
            place = self._place(like.sharding.spec)
            return jax.ShapeDtypeStruct((count, *wide.shape), wide.dtype, sharding=place)

        each = jax.tree.map(one, self._wide, self.plans[0].state)
        step = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
        alive = jax.ShapeDtypeStruct((count,), bool, sharding=self._apart)
        return Members(step, each, alive)

    def compiled(self, how: str) -> compiling.Compiled:
        """Compile the step of all of them."""
        p = self.plans[0]
        step = members_lib.make_step(plans.step_of(p), how=how)
        options = dict(state=self._places, dtype=p.parts.model.dtype)
        # Read by the host where they are; of several processes each reads all of them.
        metrics = self._apart if jax.process_count() == 1 else None
        return compiling.jit(step, mesh=self._mesh, metrics=metrics, **options)

    def hyper(self) -> hyper.Hyper:
        """Lay the numbers of all of them out for the step, [M] each."""
        numbers = hyper.stack([p.hyper for p in self.plans])
        return meshes.put(numbers, jax.tree.map(lambda _: self._apart, numbers))

    def start(self, firsts: Sequence[states.State]) -> Members:
        """Make the state before the first step of the parameters that each starts from."""
        p, wide = self.plans[0], self._wide.params
        create = functools.partial(
            states.create, tx=p.optimizer.tx, ema=p.settings.ema_decay is not None,
            integral=p.state.integral,
        )  # fmt: skip

        def make(params, keys):
            # Padded before the moments are made: these have the padded shapes too.
            padded = members_lib.stack([members_lib.pad(own, wide) for own in params])
            each = jax.vmap(lambda own, key: create(own, key=key))(padded, keys)
            return Members(jnp.int32(0), each, jnp.ones(len(params), bool))

        keys = jnp.stack([jax.random.key(p.settings.seed.sampling) for p in self.plans])
        return jax.jit(make, out_shardings=self._places)([one.params for one in firsts], keys)

    def join(self, found: Sequence[states.State], *, step: int, alive: Sequence[bool]) -> Members:
        """Put states that were alone side by side again; those that have ended may be any."""

        def make(found, step, alive):
            each = members_lib.stack([members_lib.pad(own, self._wide) for own in found])
            return Members(step, each, alive)

        return jax.jit(make, out_shardings=self._places)(
            list(found), jnp.int32(step), self.mark(alive)
        )

    def mark(self, alive: Sequence[bool]) -> jax.Array:
        """Place which members train."""
        return meshes.put(np.asarray(list(alive)), self._apart)

    def frozen(self, each: Sequence[Any]) -> Frozen:
        """Put the frozen trees of all of them side by side; what they share is the first's."""
        shared, _ = members_lib.split(each[0], of=OWN)
        own = [members_lib.split(one, of=OWN)[1] for one in each]
        wide = members_lib.widest(own)
        make = lambda own: members_lib.stack([members_lib.pad(one, wide) for one in own])
        place = lambda leaf: self._place(getattr(leaf.sharding, "spec", ()))
        return Frozen(shared, jax.jit(make, out_shardings=jax.tree.map(place, own[0]))(own))

    def _place(self, spec) -> NamedSharding:
        """Return where arrays of members lie, of which each lies so by itself."""
        return NamedSharding(self._mesh, PartitionSpec(meshes.MEMBER, *spec))

    def own(self, index: int):
        """Return the function that takes a member's own state out of that of all."""
        like = self.plans[index].state
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(like))
        # The index is an argument, or each member would have a program of its own.
        if shapes not in self._cuts:  # one program for all of a size
            take = lambda each, i: members_lib.cut(members_lib.take(each, i), like)
            self._cuts[shapes] = jax.jit(take, out_shardings=saved_state.shardings_of(like))
        return lambda state: self._cuts[shapes](state.each, index)


class Batches:
    """The batches of all members, on an axis M; those of one seed are read once."""

    def __init__(self, each: Sequence[Any], seeds: Sequence[int], mesh):
        """Take the `inputs.Batches` of every member and the seed of its data."""
        self._unique = {seed: own for own, seed in zip(each, seeds, strict=True)}
        self._seeds, self._mesh = list(seeds), mesh

    def __iter__(self):
        return self

    def __next__(self):
        # Members of one seed see the same rows, which are read and encoded once.
        found = {seed: _read(own) for seed, own in self._unique.items()}
        first = next(iter(self._unique.values()))
        batches = {
            label: self._put([found[seed][label] for seed in self._seeds], loader.batch_size)
            for label, loader in first.loaders.items()
        }
        batch = batches.pop("")
        return batch | {"anchors": batches} if batches else batch

    def _put(self, batches: list, rows: int) -> dict:
        # On the host, so that all members are sent in one transfer.
        stacked = {name: np.stack([own[name] for own in batches]) for name in batches[0]}
        return meshes.put_local(stacked, self._mesh, rows=rows, before=(meshes.MEMBER,))

    def state(self) -> dict:
        """Return where each member is in its data."""
        found = {seed: own.state() for seed, own in self._unique.items()}
        return {"members": [found[seed] for seed in self._seeds]}

    def restore(self, position: dict) -> None:
        """Go to a position; None where a member has ended, and any will do."""
        for seed, own in zip(self._seeds, position["members"], strict=True):
            if own is not None:
                self._unique[seed].restore(own)


def _read(own) -> dict:
    """Read the next batch of a member and of its anchors, on the host."""
    return {label: next(loader) for label, loader in own.loaders.items()}


def _check(found: Mapping[str, plans.Plan]) -> None:
    first, *others = found
    names = list(tree.paths(found[first].state.params))
    if base := [path for path in names if not path.startswith(("adapters/", "head/"))]:
        raise ValueError(
            f"members(): trainable: got {base[0]}; expected adapters and heads alone: members "
            "share one base, which stays as it is; list what trains it in sweep()"
        )
    lengths = {name: p.length.steps for name, p in found.items()}
    if len({*lengths.values()} | {p.length.total for p in found.values()}) > 1:
        raise ValueError(
            f"members(): epochs: got {lengths} steps, since rows pack differently by seed, or data "
            "that end before the last step; expected one number; set steps in place of epochs"
        )
    for name in others:
        _check_trees(found[first], found[name], name)


def _check_spread(count: int, mesh) -> None:
    """Check that each part of the axis `member` gets as many members.

    Raises:
      ValueError: it does not; with the largest that does.
    """
    parts = mesh.shape[meshes.MEMBER]
    if count % parts:
        legal = max(n for n in range(1, parts + 1) if count % n == 0 and mesh.size % n == 0)
        raise ValueError(
            f"mesh.{meshes.MEMBER}: got {parts} with {count} members; expected a number that "
            f"divides them; use mesh.{meshes.MEMBER}={legal}"
        )


def _check_trees(one: plans.Plan, other: plans.Plan, name: str) -> None:
    """Check that two members have the same arrays but for ranks that zeros may fill up."""
    pair = [p.parts.abstract["adapters"] for p in (one, other)]
    letters = tree.paths(one.parts.letters["adapters"])
    sites = protocol.sites(pair[0])
    if jax.tree.structure(pair[0]) != jax.tree.structure(pair[1]):
        raise ValueError(
            f"members(): adapter: got sites or settings of {name} other than the first member's; "
            "expected the same arrays but for the rank; list them in sweep()"
        )
    small, large = map(tree.paths, pair)
    for path, leaf in small.items():
        site = sites[max((s for s in sites if path.startswith(f"{s}/")), key=len)]
        for letter, a, b in zip(letters[path], leaf.shape, large[path].shape, strict=True):
            if a != b and not (letter == "R" and site.PADS):
                raise ValueError(
                    f"members(): adapter: got {path} {leaf.shape} and, of {name}, "
                    f"{large[path].shape}; expected one shape: zeros in the place of what is "
                    f"missing would change a {type(site).__name__}; list them in sweep()"
                )
