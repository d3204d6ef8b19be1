"""LayerNorm tuning (arXiv:2312.11420): norms of the base train, and nothing else.

That is no adapter but a pattern, c.trainable = ("model/**norm",). This file writes such norms as a
PEFT adapter of type LN_TUNING, a few kilobytes in place of a model, and puts one into a base:

    save(out, weights, where="**norm", linears=model.linears, names=family.NAMES, base_model="x/y")
    weights = load(out, weights, linears=model.linears, names=family.NAMES)
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ftjax.adapters.peft import base_modules
from ftjax.adapters.peft import config as peft_config
from ftjax.adapters.peft import io as peft
from ftjax.adapters.peft.format import Format
from ftjax.core import files, tree


class LnTuning(Format):
    """Tensors <norm>.ln_tuning_layers.weight: the trained norm itself, not a change of it."""

    peft_type, keys = "LN_TUNING", frozenset()
    lacks = frozenset({"layers_pattern", "layers_to_transform"})


def norms(
    weights: Mapping[str, Any], linears: Mapping[str, Any], names: Mapping[str, str]
) -> list[base_modules.Tensor]:
    """List every layer's norms: vectors of modules that are no linear map."""
    maps = {names[path].rpartition(".")[0] for path in linears}
    template = lambda tensor: names[tensor.path].rpartition(".")[0]
    return [t for t in base_modules.tensors(weights, linears, names) if template(t) not in maps]


def key(norm: base_modules.Tensor) -> str:
    """Return the name of a norm's tensor in the file."""
    return f"base_model.model.{norm.module}.ln_tuning_layers.{norm.name.rpartition('.')[2]}"


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
    chosen = _targeted(peft_config.read(config), norms(weights, linears, names))
    wanted = {key(norm): norm.shape for norm in chosen}
    missing = f"target_modules {config['target_modules']!r} match no norm"
    tensors = peft.read_tensors(folder / peft.WEIGHTS, wanted, nothing=missing)
    return base_modules.put(weights, {norm: tensors[key(norm)] for norm in chosen})


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
    tensors = {key(norm): norm.to_torch(arrays[norm.path]) for norm in chosen}
    modules = tuple(dict.fromkeys(norm.module for norm in chosen))
    targets = peft_config.Targets(tuple({name.rsplit(".", 1)[-1] for name in modules}))
    if _targeted(targets, found) != chosen:
        targets = peft_config.Targets(modules)
    config = peft_config.write(targets, peft_type=LnTuning.peft_type, base_model=base_model)
    with files.publish(directory) as draft:
        files.write_tensors(draft / peft.WEIGHTS, tensors)
        own = {key: value for key, value in config.items() if key not in LnTuning.lacks}
        files.write_json(draft / peft.CONFIG, own)


def _targeted(targets: peft_config.Targets, candidates: list[base_modules.Tensor]):
    return [norm for norm in candidates if targets.adapts(norm.module, head=norm.layer is None)]
