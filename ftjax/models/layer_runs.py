"""Layers in groups: a list of kinds cut into runs of repeating ones, and arrays cut alike.

kinds  local local global local local global local  ->  2 x (local local global), 1 x (local)
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.core import tree


@dataclasses.dataclass(frozen=True)
class Run:
    """`count` repetitions of a group of layers, from layer `first` on."""

    first: int
    group: tuple[Any, ...]
    count: int

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks that its layers belong to."""
        return tuple(dict.fromkeys(kind.stack for kind in self.group))


@functools.cache
def runs(kinds: tuple[Any, ...]) -> tuple[Run, ...]:
    """Cut the layers into runs: at each place the group whose repetitions reach farthest."""
    found, at = [], 0
    while at < len(kinds):
        rest = kinds[at:]
        # A longer group than half of what is left cannot repeat.
        options = [(g, _repetitions(rest, g)) for g in range(1, len(rest) // 2 + 1)]
        # Of two that reach equally far the smaller group: its body is compiled once for each layer.
        reach = lambda option: (option[0] * option[1] if option[1] > 1 else 1, -option[0])
        size, count = max(options, key=reach, default=(1, 1))
        # Nothing repeats from here on: one layer alone, and the search goes on behind it.
        size = size if count > 1 else 1
        found.append(Run(at, rest[:size], count))
        at += size * count
    return tuple(found)


def _repetitions(kinds: Sequence, size: int) -> int:
    """Count how often the first `size` elements stand one after the other at the start."""
    same = itertools.takewhile(lambda i: kinds[i] == kinds[i % size], range(len(kinds)))
    return sum(1 for _ in same) // size


def period(values: Sequence) -> tuple:
    """Return the shortest beginning of which all of `values` is a repetition."""
    sizes = range(1, len(values) + 1)
    fits = (g for g in sizes if all(v == values[i % g] for i, v in enumerate(values)))
    return tuple(values[: next(fits)])


def inputs(kinds: Sequence[Any], run: Run, stacks: Mapping[str, Any], every, turn=None):
    """Return what a run's groups take: of each stack its layers, and of `every` all; see `cut`."""
    part = functools.partial(cut, kinds, run, turn=turn)
    return {name: part(stack, of=name) for name, stack in stacks.items()}, part(every)


def cut(kinds: Sequence[Any], run: Run, inputs, of: str | None = None, turn=None):
    """Cut a run's groups out of stacked inputs: [L,...] -> [count, layers of a group, ...].

    `of` names the stack whose layers the axis L counts; None counts all. `turn` gives one group
    alone, [layers of a group, ...].
    """
    inside = lambda those: sum(of in (None, kind.stack) for kind in those)
    first, size = inside(kinds[: run.first]), inside(run.group)
    # Layers of one stack lie in the order of depth, so a run's are neighbours.
    span = slice(first, first + size * run.count)
    part = lambda leaf: leaf[span].reshape(run.count, size, *leaf.shape[1:])
    one = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first + turn * size, size)
    return tree.map_stacked(part if turn is None else one, inputs)


def interleave(outputs: Sequence):
    """Join what the places of a group gave, [count,...] each, in the order of the layers."""
    # A scan gives each place's outputs apart; in depth the places of a group alternate.
    weave = lambda *leaves: jnp.stack(leaves, 1).reshape(-1, *leaves[0].shape[1:])
    return jax.tree.map(weave, *outputs)


def join(parts: Sequence):
    """Join what runs gave, one after the other."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
