"""What one method says about its files in PEFT's format: the seam between `io.py` and methods.

A method that PEFT has brings an object `PEFT = MyFormat()` in a file of this folder that is named
after it, where it is found by listing the folder:

    class MyFormat(Format):
        peft_type, kinds = "MY_METHOD", (MyAdapter,)
        keys, required = {"my_rank", "my_alpha"}, {"my_rank"}

        def read(self, config):                    {"rank": 4, ...}: keywords of the method's `make`
        def write(self, layers, hyper):            the way back: fields of adapter_config.json
        def shapes(self, module, hyper):           {"my_a": (4, 24), ...} after the module's name
        def from_torch(self, module, hyper, tensors):      one layer's adapter, of numpy arrays
        def to_torch(self, module, adapter):               {"my_a": array, ...}

The rest has defaults: stacking layers, tensors that exist once in a file, methods without modules.
Which modules are targeted, whether all tensors are there, is handled in `io.py`.
"""

import collections
import dataclasses
import itertools
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from ftjax.adapters.lib import protocol as base
from ftjax.core import einsum, torch_layout, tree

Tensors = Mapping[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Module:
    """One layer's linear map under its name in PEFT; `layer` is None for a map that exists once.

    Experts are parameters of one module, each adapted by a wrapper around the ones before it;
    `outer` counts the wrappers around this one.
    """

    name: str
    path: str
    layer: int | None
    linear: Any  # equation, shape of one layer's weight, numbers of the stack's layers
    outer: int = 0

    @property
    def number(self) -> int | None:
        """The layer's number in the model."""
        return None if self.layer is None else self.linear.layers[self.layer]

    @property
    def e(self) -> einsum.Einsum:
        """The parsed equation."""
        return einsum.parse(self.linear.equation)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the weight's letters."""
        return einsum.sizes(self.e.w, self.linear.shape)

    @property
    def inputs(self) -> int:
        """Width of the input: the second axis of a torch weight."""
        return einsum.size(self.e.contracted, self.sizes)

    @property
    def outputs(self) -> int:
        """Width of the output: the first axis of a torch weight."""
        return einsum.size(self.e.kept, self.sizes)

    def key(self, suffix: str) -> str:
        """Return the name of a tensor in the file."""
        owner = self.name.rpartition(".")[0] if self.e.shared else self.name
        return f"base_model.model.{owner}{'.base_layer' * self.outer}.{suffix}"

    def from_torch(self, array: np.ndarray, *groups: str, letters: str, **sizes: int):
        """View a torch tensor, whose axes are runs of letters, in our letters; see `core.layout`.

        Sizes of letters that the weight does not have, such as the rank, are given: `R=4`.
        """
        return torch_layout.Layout(groups, letters).from_torch(array, self.sizes | sizes)


class Format:
    """One method's files; subclasses fill in what has no default."""

    peft_type: ClassVar[str]
    kinds: ClassVar[tuple[type[base.Adapter], ...]]  # the adapters that are written like this
    keys: ClassVar[Collection[str]]  # of adapter_config.json, read besides the common ones
    required: ClassVar[Collection[str]] = frozenset()
    lacks: ClassVar[Collection[str]] = frozenset()  # common keys that PEFT's method has not
    has_targets: ClassVar[bool] = (
        True  # False: no target_modules, the file is about the whole model
    )

    # -- the config --------------------------------------------------------------------------------

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Translate the fields into keywords of `make` (and what else the other functions need).

        A setting that is not supported is a ValueError: "key=value".
        """
        raise NotImplementedError

    def write(self, layers: Mapping[str, base.Adapter], hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Make the fields for adapters by module name; `hyper` is the `adapter` of our config.

        For a method without targets they are by path, as in the tree.
        """
        raise NotImplementedError

    # -- one layer of one module -------------------------------------------------------------------

    def covers(self, module: Module) -> bool:
        """Return whether the method can adapt this map; by default no experts, no embedding."""
        return not (module.e.shared or module.linear.is_lookup)

    def besides(self, module: Module, hyper: Mapping[str, Any]) -> bool:
        """Return whether the file adapts this module though no target names it."""
        return False

    def is_target(self, adapter) -> bool:
        """Return whether `target_modules` names the module of this adapter."""
        return True

    def shapes(self, module: Module, hyper: Mapping[str, Any]) -> Shapes:
        """Return the torch shape of each of a module's tensors by suffix."""
        raise NotImplementedError

    def from_torch(self, module: Module, hyper: Mapping[str, Any], tensors: Tensors):
        """Make one layer's adapter, its leaves numpy arrays, of tensors by suffix.

        What exists once for all layers is wrapped in `tree.Shared`, as the method's `init` does.
        Tensors of `shapes_once` are among them under their full names.
        """
        raise NotImplementedError

    def to_torch(self, module: Module, adapter) -> dict[str, np.ndarray]:
        """Return the tensors by suffix of one layer's adapter, as `trim` left it."""
        raise NotImplementedError

    def needs_weight(self, hyper: Mapping[str, Any]) -> bool:
        """Return whether an adapter cannot be made without the weight that it changes."""
        return False

    def on_weight(self, module: Module, hyper: Mapping[str, Any], adapter, w: np.ndarray):
        """Complete what `from_torch` made, with the weight of the layer; where it is needed."""
        raise NotImplementedError

    def trim(self, adapter):
        """Cut one layer's adapter to what is used of it; None if it adapts nothing."""
        return adapter

    # -- the layers of one path --------------------------------------------------------------------

    def absent(self, like):
        """Make the adapter of a layer that is not adapted beside one that is: it does nothing."""
        return tree.map_stacked(np.zeros_like, like)

    def align(self, layers: list) -> list:
        """Bring the layers of a stack to one shape; they have it unless ranks differ.

        Raises:
          ValueError: they differ, and the method has no way to fill up the smaller ones.
        """
        described = {str(jax.tree.map(np.shape, layer)) for layer in layers}
        if len(described) > 1:
            raise ValueError(
                f"{self.peft_type}: got layers of one map that differ: {'; '.join(described)}; "
                "expected the same sizes in all layers; merge it into the base with its own tool"
            )
        return layers

    # -- tensors that exist once in a file ---------------------------------------------------------

    def shapes_once(self, modules: list[Module], hyper: Mapping[str, Any]) -> Shapes:
        """Return the torch shapes of tensors that belong to no module, by full name."""
        return {}

    def complete(self, modules: list[Module], hyper: Mapping[str, Any], tensors: Tensors):
        """Return these tensors, with those that the file leaves to be drawn."""
        return tensors

    def to_torch_once(self, adapters: Mapping[str, base.Adapter]) -> dict[str, np.ndarray]:
        """Return these tensors of (stacked) adapters by path."""
        return {}

    def build_once(self, hyper: Mapping[str, Any], tensors: Tensors) -> dict:
        """Make the adapter tree of a method without targets."""
        raise NotImplementedError


def pattern(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Split values by module name into the commonest and the exceptions, as in `rank_pattern`.

    An exception is keyed by the last part of the name where all modules of that ending share it.
    """
    common = collections.Counter(values.values()).most_common(1)[0][0]
    ending = lambda name: name.rsplit(".", 1)[-1]
    exceptions: dict[str, Any] = {}
    for key, group in itertools.groupby(sorted(values, key=ending), key=ending):
        group = list(group)
        if len({values[name] for name in group}) == 1:
            exceptions |= {key: values[group[0]]}
        else:
            exceptions |= {name: values[name] for name in group}
    return common, {key: value for key, value in exceptions.items() if value != common}


def number(value: float) -> int | float:
    """Return a whole number as an int: JSON then shows 8, not 8.0."""
    return int(value) if float(value).is_integer() else float(value)


def one_submodule(config: Mapping[str, Any]) -> None:
    """Check that virtual tokens are those of a decoder, and not of an encoder too."""
    if config.get("num_transformer_submodules") not in (None, 1):
        count = config["num_transformer_submodules"]
        raise ValueError(f"num_transformer_submodules={count!r}")
