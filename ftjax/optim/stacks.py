"""Layers of a model by their numbers, where one array holds the same parameter of several.

    depths = {"blocks": (0, 1, 2, 3)}     of every stack, which layers of the model it holds
    stacks.mask("model/blocks/attn/q", w, {0, 3}, depths, where="optim.groups")    [4, 1, 1, 1]

A stack is told by the first segment of a path behind `model/` or `adapters/`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ftjax.core import tree

Depths = Mapping[str, Sequence[int]]


def layers_of(path: str, depths: Depths) -> Sequence[int] | None:
    """Return the layers of the model that the array at `path` holds; None: it is in no stack."""
    return depths.get(path.split("/")[1] if "/" in path else path)


def along(values: Sequence, path: str, leaf, *, where: str) -> np.ndarray:
    """Shape one value for every layer of a stack so that it broadcasts against its array.

    Raises:
      ValueError: the array is not one of single layers, but shared by all.
    """
    if leaf.ndim == 0 or leaf.shape[0] != len(values):
        raise ValueError(
            f"{where}: got {path} of the shape {list(leaf.shape)}, which all layers share; "
            f"expected arrays of single layers; drop {where.rpartition('.')[2]}"
        )
    return np.asarray(values).reshape(-1, *[1] * (leaf.ndim - 1))


def mask(path: str, leaf, chosen: Collection[int], depths: Depths, *, where: str):
    """Return which layers of an array are among the chosen ones, [L, 1, ...].

    Raises:
      ValueError: it is in no stack, or the model has no layer of some number.
    """
    check(chosen, depths, where=where)
    if (own := layers_of(path, depths)) is None:
        raise ValueError(
            f"{where}: got layers {sorted(chosen)} for {path}, which is in no stack of layers; "
            f"expected paths below one of {', '.join(sorted(depths))}; name these alone"
        )
    return along([layer in chosen for layer in own], path, leaf, where=where)


def check(chosen: Collection[int], depths: Depths, *, where: str) -> None:
    """Check that there are layers of these numbers."""
    count = 1 + max(max(own) for own in depths.values())
    if not chosen or not set(chosen) <= set(range(count)):
        raise ValueError(
            f"{where}: got layers {sorted(chosen)}; expected some of 0 .. {count - 1}, the model's"
        )


def keeper(chosen: Collection[int], depths: Depths, *, where: str) -> Callable:
    """Make what zeroes, in a tree of trainables, all layers of stacks but the chosen ones.

    Where none is chosen it hands the tree on as it is. Arrays in no stack stay whole.
    """
    if not chosen:
        return lambda parameters: parameters

    def one(path: str, leaf) -> Any:
        if layers_of(path, depths) is None:
            return leaf
        return leaf * mask(path, leaf, chosen, depths, where=where).astype(leaf.dtype)

    return lambda parameters: tree.map_with_paths(one, parameters)
