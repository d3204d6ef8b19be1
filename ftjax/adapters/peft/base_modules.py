"""Modules of the base that train whole beside an adapter: PEFT's `modules_to_save`.

A name in that list takes every module whose name ends like it, whatever comes before: "norm" is
model.norm and each input_layernorm. A module's tensors go out and in as they are, all of them, in
the checkpoint's own form under base_model.model.

    chosen = named(("lm_head", "norm"), tensors(weights, linears, names))
    weights = put(weights, {tensor: array, ...})
"""

import collections
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ftjax.core import einsum, tree
from ftjax.core import torch_layout as layout


class Tensor(NamedTuple):
    """One tensor of a checkpoint, and where it is in our tree: a path and a place on its L."""

    name: str
    path: str
    layer: int | None
    shape: tuple[int, ...]  # of the tensor
    layer_shape: tuple[int, ...]  # of one layer's array
    layout: layout.Layout | None  # None: the same numbers in the same order

    @property
    def module(self) -> str:
        """Return the name of the module that it belongs to."""
        return self.name.rpartition(".")[0]

    @property
    def key(self) -> str:
        """Return its name in an adapter's file."""
        return f"base_model.model.{self.name}"

    def to_torch(self, leaf) -> np.ndarray:
        """Take this tensor out of the array at its path."""
        array = np.asarray(leaf if self.layer is None else leaf[self.layer])
        return array.reshape(self.shape) if self.layout is None else self.layout.to_torch(array)

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """View a tensor as one layer's array."""
        if self.layout is None:
            return array.reshape(self.layer_shape)
        return self.layout.from_torch(array, einsum.sizes(self.layout.letters, self.layer_shape))


def tensors(
    weights: Mapping[str, Any], linears: Mapping[str, Any], names: Mapping[str, str]
) -> list[Tensor]:
    """List the tensors of a base by their names in checkpoints.

    Experts are left out, and an embedding that is the head too: PEFT would train one of the two.
    """
    found, tied = [], "head" not in weights
    for path, leaf in tree.paths(weights).items():
        site, name = linears.get(path), names.get(path, "{E}")
        experts = "{E}" in name or (site and einsum.parse(site.equation).shared)
        if experts or (site and site.is_lookup and tied):
            continue
        stacked = "{L}" in name
        own = leaf.shape[1:] if stacked else leaf.shape
        plan = None
        if site and not site.is_lookup:
            plan = layout.linear(site.equation, inputs_first=site.inputs_first)
        flat = (math.prod(own),) if stacked else own
        shape = plan.torch_shape(einsum.sizes(plan.letters, own)) if plan else flat
        for layer, number in enumerate(_numbers(path, linears)) if stacked else [(None, None)]:
            found.append(Tensor(name.format(L=number), path, layer, shape, own, plan))
    return found


def _numbers(path: str, linears: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the numbers of the layers in the stack of a path: every stack has linear maps."""
    stack = path.partition("/")[0]
    return next(x.layers for at, x in linears.items() if at.partition("/")[0] == stack)


def named(names: Iterable[str], candidates: Iterable[Tensor]) -> list[Tensor]:
    """Choose the tensors of the modules whose names, or whose parents', end in one of `names`."""
    endings = tuple(names)

    def takes(tensor: Tensor) -> bool:
        parts = tensor.module.split(".")
        modules = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        return bool(endings) and any(module.endswith(endings) for module in modules)

    return [tensor for tensor in candidates if takes(tensor)]


def of_paths(paths: Collection[str], candidates: list[Tensor]) -> list[Tensor]:
    """Choose the tensors at some paths, and what else their modules hold.

    Raises:
      ValueError: a path has no tensor of its own in a checkpoint.
    """
    modules = {tensor.module for tensor in candidates if tensor.path in paths}
    if lost := sorted(set(paths) - {tensor.path for tensor in candidates}):
        raise ValueError(
            f"trainable: got {', '.join(lost)} beside an adapter; expected modules that PEFT saves "
            "whole; merge the adapter into the model instead"
        )
    return [tensor for tensor in candidates if tensor.module in modules]


def shortest(chosen: list[Tensor], candidates: list[Tensor]) -> tuple[str, ...]:
    """Find the shortest names that mean exactly the modules of these tensors."""
    modules = dict.fromkeys(tensor.module for tensor in chosen)
    for names in ({module.rpartition(".")[2] for module in modules}, set(modules)):
        others = lambda name, names=names: (each for each in names if each != name)
        short = sorted(n for n in names if not any(n.endswith(other) for other in others(n)))
        if named(short, candidates) == chosen:
            break
    return tuple(short)


def put(weights: Mapping[str, Any], found: Mapping[Tensor, np.ndarray]) -> Any:
    """Return weights with these tensors in place of their own, in the type that they have."""
    layers, values = collections.defaultdict(list), collections.defaultdict(list)
    for tensor, array in found.items():
        layers[tensor.path].append(tensor.layer)
        values[tensor.path].append(tensor.from_torch(array))

    def one(path, leaf):
        if path not in layers:
            return leaf
        if layers[path] == [None]:
            return jnp.asarray(leaf).at[...].set(values[path][0].astype(leaf.dtype))
        where = np.asarray(layers[path])
        return jnp.asarray(leaf).at[where].set(np.stack(values[path]).astype(leaf.dtype))

    return tree.map_with_paths(one, weights)
