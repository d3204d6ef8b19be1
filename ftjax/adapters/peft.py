"""LoRA adapters in PEFT's files, in and out: adapter_config.json and adapter_model.safetensors.

    adapters = load(directory, linears=model.linears, names=family.NAMES)
    save(out, adapters, linears=model.linears, names=family.NAMES, base_model="org/name")

PEFT adapts each layer's module by itself; ours are stacked. Layers of a stack whose ranks differ
are padded with zeros to the largest rank, and each layer has its own scale. Zero columns of `a`
facing zero rows of `b` stay zero in training, so on export the true ranks are found again, and a
layer that was not adapted (a and b zero) is left out.
"""

import collections
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ftjax.adapters import base, peft_config
from ftjax.adapters.lora import LoRA
from ftjax.core import einsum, files, layout

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Settings = peft_config.Settings


@dataclasses.dataclass(frozen=True)
class Module:
    """One layer's linear map under its name in PEFT; `layer` is None for a map that exists once."""

    name: str
    path: str
    layer: int | None
    a: layout.Layout
    b: layout.Layout
    sizes: Mapping[str, int]

    @property
    def keys(self) -> tuple[str, str]:
        """Names of the tensors A and B."""
        prefix = f"base_model.model.{self.name}"
        return f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Compute the shapes of A and B as PEFT has them."""
        sizes = self.sizes | {"R": rank}
        return self.a.torch_shape(sizes), self.b.torch_shape(sizes)


def modules(linears: Mapping[str, Any], names: Mapping[str, str]) -> list[Module]:
    """List every layer's linear maps by their names in PEFT."""
    found = []
    for path, linear in linears.items():
        e, low = einsum.parse(linear.equation), einsum.lora(linear.equation)
        if e.shared or linear.is_lookup:
            continue  # experts, embeddings: PEFT has another format for them
        a, b = layout.Layout(("R", e.contracted), low.a), layout.Layout((e.kept, "R"), low.b)
        sizes, template = einsum.sizes(e.w, linear.shape), names[path].removesuffix(".weight")
        for layer in [None] if linear.stack is None else range(linear.stack):
            name = template.format(L=layer)
            found.append(Module(name, path, layer, a, b, sizes))
    return found


# -- reading ---------------------------------------------------------------------------------------


def settings_of(directory: str | os.PathLike) -> Settings:
    """Read what an adapter's config says; raises ValueError where that is not supported."""
    path = pathlib.Path(directory) / CONFIG
    return peft_config.read(files.read_json(path), where=str(path))


def load(
    directory: str | os.PathLike, *, linears: Mapping[str, Any], names: Mapping[str, str],
    dtype=jnp.float32,
) -> dict:  # fmt: skip
    """Read a LoRA into a tree of stacked adapters.

    Args:
      directory: holds the two files.
      linears: the model's linear maps. names: our path -> tensor name template of the checkpoint.
      dtype: of the factors; their scales are float32.

    Raises:
      ValueError: a setting is not supported, or tensors are missing, unexpected or misshapen.
    """
    settings, path = settings_of(directory), pathlib.Path(directory) / WEIGHTS
    chosen = targeted(settings, modules(linears, names))
    wanted: dict[str, tuple[int, ...]] = {}
    for m in chosen:
        wanted |= zip(m.keys, m.shapes(settings.rank_of(m.name)), strict=True)
    with files.open_tensors(path) as handle:
        stored = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        shapes = {name: tuple(part.get_shape()) for name, part in stored.items()}
        lines = files.complaints(wanted, shapes)
        if lines or not chosen:
            lines = lines or [f"target_modules {settings.targets!r} match no linear map"]
            raise ValueError(f"{path}: differs from its config: {files.listing(lines)}")
        tensors = {name: stored[name][:].astype(dtype) for name in wanted}
    result: dict = {}
    for site in dict.fromkeys(m.path for m in chosen):
        own = {m.layer: m for m in chosen if m.path == site}
        base.insert(result, site, _assemble(own, linears[site].stack, tensors, settings))
    return result


def targeted(settings: Settings, candidates: list[Module]) -> list[Module]:
    """Choose the modules that the settings adapt."""
    return [m for m in candidates if settings.adapts(m.name, head=m.layer is None)]


def _assemble(own: Mapping[int | None, Module], stack: int | None, tensors, settings) -> LoRA:
    """Stack the layers of one site, zero where a layer is not adapted or its rank is smaller."""
    rank = max(settings.rank_of(m.name) for m in own.values())
    some = next(iter(own.values()))
    sizes, dtype = dict(some.sizes) | {"R": rank}, tensors[some.keys[0]].dtype
    lead = () if stack is None else (stack,)
    a = np.zeros((*lead, *(sizes[c] for c in some.a.letters)), dtype)
    b = np.zeros((*lead, *(sizes[c] for c in some.b.letters)), dtype)
    scale = np.zeros(lead, np.float32)
    for layer, module in own.items():
        at, r = (() if layer is None else layer), settings.rank_of(module.name)
        local = dict(module.sizes) | {"R": r}
        a[at][..., :r] = module.a.from_torch(tensors[module.keys[0]], local)
        b[at][:r] = module.b.from_torch(tensors[module.keys[1]], local)
        scale[at] = settings.scale_of(module.name)
    return LoRA(jnp.asarray(a), jnp.asarray(b), jnp.asarray(scale), settings.dropout)


# -- writing ---------------------------------------------------------------------------------------


def save(
    directory: str | os.PathLike, adapters: Mapping[str, Any], *, linears: Mapping[str, Any],
    names: Mapping[str, str], base_model: str | None, rslora: bool = False, dtype=np.float32,
) -> None:  # fmt: skip
    """Write a tree of LoRA adapters; the directory appears when it is complete.

    Args:
      directory: new or empty.
      adapters, linears, names: as `load` has them.
      base_model: the name or path of the base, for PEFT.
      rslora: write alphas for the scale alpha / sqrt(r); the function is the same.

    Raises:
      ValueError: an adapter is not a LoRA, or nothing is adapted.
    """
    factors = _true_factors(adapters, modules(linears, names), dtype)
    sites = base.sites(adapters).values()
    dropout = max((adapter.dropout for adapter in sites), default=0.0)
    settings = _describe(factors, modules(linears, names), rslora=rslora, dropout=dropout)
    tensors = {}
    for module, (a, b, _) in factors:
        tensors |= zip(module.keys, (module.a.to_torch(a), module.b.to_torch(b)), strict=True)
    with files.publish(directory) as draft:
        files.write_tensors(draft / WEIGHTS, tensors)
        files.write_json(draft / CONFIG, peft_config.write(settings, base_model=base_model))


def _true_factors(adapters, candidates: list[Module], dtype) -> list[tuple[Module, tuple]]:
    """Cut every adapted layer's a and b to their true rank: (module, (a, b, scale))."""
    found, result = base.sites(adapters), []
    known = {m.path for m in candidates}
    for path, adapter in found.items():
        if not isinstance(adapter, LoRA) or path not in known:
            raise ValueError(
                f"adapters/{path}: got a {type(adapter).__name__}; expected a LoRA at a linear "
                "map; PEFT files of other methods are not supported"
            )
    for module in (m for m in candidates if m.path in found):
        adapter, at = found[module.path], () if module.layer is None else module.layer
        a = np.asarray(adapter.a[at]).astype(dtype)
        b = np.asarray(adapter.b[at]).astype(dtype)
        used = np.any(a.reshape(-1, a.shape[-1]), 0) | np.any(b.reshape(b.shape[0], -1), 1)
        if used.any():
            scale = float(adapter.scale[at])
            result.append((module, (a[..., used], b[used], scale)))
    if not result:
        raise ValueError("adapters: got none that is not zero; there is nothing to write")
    return result


def _describe(factors, candidates: list[Module], *, rslora: bool, dropout: float) -> Settings:
    """Find the shortest settings that mean exactly these modules, ranks and scales."""
    ranks = {m.name: b.shape[0] for m, (_, b, _) in factors}
    alphas = {m.name: _alpha(s, ranks[m.name], rslora=rslora) for m, (_, _, s) in factors}
    rank, rank_pattern = _pattern(ranks)
    alpha, alpha_pattern = _pattern(alphas)
    settings = Settings(
        rank, alpha, rslora, dropout, targets=tuple(ranks),
        rank_pattern=rank_pattern, alpha_pattern=alpha_pattern,
    )  # fmt: skip
    endings = tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in ranks))
    layers = tuple(sorted({m.layer for m, _ in factors if m.layer is not None}))
    for kept in (None, layers):
        shorter = dataclasses.replace(settings, targets=endings, layers=kept or None)
        if {m.name for m in targeted(shorter, candidates)} == set(ranks):
            return shorter
    return settings


def _alpha(scale: float, rank: int, *, rslora: bool) -> float:
    """Invert the scale; the roundest number that gives the same float32."""
    divisor = rank**0.5 if rslora else rank
    exact = scale * divisor
    rounder = (round(exact, digits) for digits in range(8))
    same = (x for x in rounder if np.float32(x / divisor) == np.float32(scale))
    return next(same, exact)


def _pattern(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Split values by module into the commonest and the exceptions.

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
