"""LayerNorm tuning (arXiv:2312.11420): norms of the base train, and nothing else.

That is no adapter but a pattern, c.trainable = ("model/**norm",). This file writes such norms as a
PEFT adapter of type LN_TUNING, a few kilobytes in place of a model, and puts one into a base:

    save(out, weights, where="**norm", linears=model.linears, names=family.NAMES, base_model="x/y")
    weights = load(out, weights, linears=model.linears, names=family.NAMES)
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ftjax.adapters import peft, peft_config
from ftjax.adapters.peft_format import Format
from ftjax.core import files, tree


class LnTuning(Format):
    """Tensors <norm>.ln_tuning_layers.weight: the trained norm itself, not a change of it."""

    peft_type, keys = "LN_TUNING", frozenset()
    lacks = frozenset({"layers_pattern", "layers_to_transform"})


class Norm(NamedTuple):
    """One layer's vector of a norm: its module and kind in PEFT, and where it is in our tree."""

    module: str
    kind: str  # weight or bias
    path: str
    layer: int | None

    @property
    def key(self) -> str:
        """Return the name of the tensor."""
        return f"base_model.model.{self.module}.ln_tuning_layers.{self.kind}"


def norms(weights: Mapping[str, Any], linears: Mapping[str, Any], names: Mapping[str, str]):
    """List every layer's norms: vectors of modules that are no linear map."""
    maps, found = {names[path].rpartition(".")[0] for path in linears}, []
    for path, leaf in tree.paths(weights).items():
        module, _, kind = names[path].rpartition(".")
        if module not in maps:
            layers = range(leaf.shape[0]) if "{L}" in module else [None]
            found += [Norm(module.format(L=layer), kind, path, layer) for layer in layers]
    return found


def load(
    directory: str | os.PathLike, weights: Mapping[str, Any], *, linears: Mapping[str, Any],
    names: Mapping[str, str],
) -> dict:  # fmt: skip
    """Return the weights of a base with the norms of a PEFT directory in place of its own.

    Raises:
      ValueError: a setting is not supported, or tensors are missing, unexpected or misshapen.
    """
    folder = pathlib.Path(directory)
    config = files.read_json(folder / peft.CONFIG)
    if (given := config.get("peft_type")) != LnTuning.peft_type:
        raise ValueError(f"{folder}: got peft_type={given!r}; expected {LnTuning.peft_type!r}")
    peft_config.check(config, LnTuning, where=str(folder / peft.CONFIG))
    arrays = tree.paths(weights)
    chosen = _targeted(peft_config.read(config), norms(weights, linears, names))
    wanted = {norm.key: arrays[norm.path].shape[-1:] for norm in chosen}
    with files.open_tensors(folder / peft.WEIGHTS) as handle:
        stored = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118
        shapes = {key: tuple(part.get_shape()) for key, part in stored.items()}
        if (lines := files.complaints(wanted, shapes)) or not wanted:
            lines = lines or [f"target_modules {config['target_modules']!r} match no norm"]
            raise ValueError(f"{folder}: differs from its config: {files.listing(lines)}")
        tensors = {key: stored[key][:] for key in wanted}
    changed = {norm.path: np.array(arrays[norm.path]) for norm in chosen}
    for norm in chosen:
        changed[norm.path][() if norm.layer is None else norm.layer] = tensors[norm.key]
    put = lambda path, leaf: jnp.asarray(changed[path]) if path in changed else leaf
    return tree.map_with_paths(put, weights)


def save(
    directory: str | os.PathLike, weights: Mapping[str, Any], *, where: str | Iterable[str],
    linears: Mapping[str, Any], names: Mapping[str, str], base_model: str | None,
) -> None:  # fmt: skip
    """Write the norms whose paths match `where`; the directory appears when it is complete.

    Raises:
      ValueError: a pattern matches no norm.
    """
    found, arrays = norms(weights, linears, names), tree.paths(weights)
    paths = tree.select(where, {norm.path for norm in found}, where="norms")
    chosen = [norm for norm in found if norm.path in paths]
    tensors = {
        norm.key: np.asarray(arrays[norm.path][() if norm.layer is None else norm.layer])
        for norm in chosen
    }
    modules = tuple(dict.fromkeys(norm.module for norm in chosen))
    targets = peft_config.Targets(tuple({name.rsplit(".", 1)[-1] for name in modules}))
    if _targeted(targets, found) != chosen:
        targets = peft_config.Targets(modules)
    config = peft_config.write(targets, peft_type=LnTuning.peft_type, base_model=base_model)
    with files.publish(directory) as draft:
        files.write_tensors(draft / peft.WEIGHTS, tensors)
        own = {key: value for key, value in config.items() if key not in LnTuning.lacks}
        files.write_json(draft / peft.CONFIG, own)


def _targeted(targets: peft_config.Targets, candidates: list[Norm]) -> list[Norm]:
    return [norm for norm in candidates if targets.adapts(norm.module, head=norm.layer is None)]
