"""Adapters in PEFT's files, in and out: adapter_config.json and adapter_model.safetensors.

    adapters = load(directory, linears=model.linears, names=family.NAMES)
    save(out, adapters, linears=model.linears, names=family.NAMES, base_model="org/name",
         hyper=dict(rslora=True))

PEFT adapts each layer's module by itself; ours are stacked. This file finds the modules by their
names in PEFT, decides which are targeted, checks the tensors and stacks the layers; what the
tensors of a method are called and mean is in its `PEFT` object, see `peft_format.Format`.
"""

import collections
import dataclasses
import functools
import importlib
import os
import pathlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ftjax.adapters.peft
from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import base_modules, embedding
from ftjax.adapters.peft import config as peft_config
from ftjax.adapters.peft.format import Format, Module
from ftjax.core import config as conf
from ftjax.core import einsum, files, tree

EXPERTS = ("gate_up", "down")  # as transformers declares them
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SAVED = "modules_to_save"


@functools.cache
def formats() -> dict[str, Format]:
    """List the methods that have files in PEFT's format, by `peft_type`: every `PEFT` here."""
    names = [module.name for module in pkgutil.iter_modules(ftjax.adapters.peft.__path__)]
    modules = (importlib.import_module(f"{ftjax.adapters.peft.__name__}.{name}") for name in names)
    found = [module.PEFT for module in modules if "PEFT" in vars(module)]
    return {method.peft_type: method for method in found}


def modules(linears: Mapping[str, Any], names: Mapping[str, str]) -> list[Module]:
    """List every layer's linear maps by their names in PEFT.

    Fused experts that lie transposed are not among them: their files have other factors.
    """
    found = []
    for path, linear in linears.items():
        if not linear.in_order:
            continue
        template = _template(path, linear, names[path])
        if linear.layers is None:
            found.append(Module(template, path, None, linear))
        for layer, number in enumerate(linear.layers or ()):
            found.append(Module(template.format(L=number), path, layer, linear))
    return found


def _template(path: str, linear, stored: str) -> str:
    """Name a map's modules after its tensors; experts are fused parameters, whatever is stored."""
    # A wrapper's text model is elsewhere in memory than in files.
    stored = stored.replace("language_model.model.", "model.language_model.")
    stored = stored.removeprefix("language_model.")
    if not einsum.parse(linear.equation).shared:
        return stored.removesuffix(".weight")
    before, _, own = stored.partition("{L}.")
    block, name = own.partition(".")[0], path.rsplit("/", 1)[-1]
    # Mixtral's block has another name in memory; fused experts keep theirs.
    block = {"experts": ""}.get(block, f"{block}.") if "{E}" not in stored else "mlp."
    return f"{before}{{L}}.{block}experts.{name}_proj"


def nested(chosen: list[Module]) -> list[Module]:
    """Count the wrappers around each parameter: PEFT wraps in the order of their declaration."""
    experts = {(m.layer, m.path) for m in chosen if m.e.shared}

    def place(m: Module) -> Module:
        stack, _, own = m.path.rpartition("/")
        later = (f"{stack}/{name}" for name in EXPERTS[EXPERTS.index(own) + 1 :])
        return dataclasses.replace(m, outer=sum((m.layer, path) in experts for path in later))

    return [place(m) if m.e.shared else m for m in chosen]


# -- reading ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an adapter_config.json says: the method, its modules, its keywords in our terms."""

    method: Format
    targets: peft_config.Targets
    hyper: Mapping[str, Any]
    saved: tuple[str, ...] = ()  # modules of the base that the file holds whole

    def targeted(self, candidates: list[Module]) -> list[Module]:
        """Choose the modules that are adapted, as targets or besides.

        Raises:
          ValueError: there is no such parameter as `target_parameters` has.
        """
        parameters = [m.name for m in candidates if m.e.shared]
        for wanted in self.targets.parameters:
            if not any(peft_config.match((wanted,), name) for name in parameters):
                raise ValueError(
                    f"target_parameters: got {wanted!r}; expected the end of a parameter's name: "
                    f"{conf.listed(parameters)}"
                )
        targets = targeted(self.method, self.targets, candidates)
        beside = lambda m: self.method.besides(m, self.hyper)
        return targets + [m for m in candidates if m not in targets and beside(m)]


def targeted(method: Format, targets, candidates: list[Module]) -> list[Module]:
    """Choose the modules that a method adapts."""

    def adapts(m: Module) -> bool:
        if m.e.shared:
            return targets.adapts_parameter(m.name)
        return targets.adapts(m.name, head=m.layer is None)

    return nested([m for m in candidates if method.covers(m) and adapts(m)])


def settings_of(directory: str | os.PathLike) -> Settings:
    """Read what an adapter's config says.

    Raises:
      ValueError: a method or a setting is not supported, or a key is missing.
    """
    path = pathlib.Path(directory) / CONFIG
    config = files.read_json(path)
    name = config.get("peft_type")
    if not isinstance(name, str) or name not in formats():
        hint = conf.nearest(str(name), formats())
        raise ValueError(
            f"{path}: got peft_type={name!r}; {hint}expected one of {conf.listed(formats())}"
        )
    method = formats()[name]
    peft_config.check(config, method, where=str(path))
    try:
        hyper = method.read(config)
    except ValueError as error:
        raise ValueError(f"{path}: got settings that are not supported: {error}") from None
    return Settings(method, peft_config.read(config), hyper, peft_config.saved(config))


def load(
    directory: str | os.PathLike, *, linears: Mapping[str, Any], names: Mapping[str, str],
    weights: Mapping[str, Any] | None = None, dtype=jnp.float32,
) -> dict:  # fmt: skip
    """Read an adapter into a tree of stacked adapters.

    Args:
      directory: holds the two files.
      linears: the model's linear maps. names: our path -> tensor name template of the checkpoint.
      weights: the model's parameters, which PiSSA and its like need.
      dtype: of what trains; data such as scales is float32.

    Raises:
      ValueError: a setting is not supported, or tensors are missing, unexpected or misshapen.
    """
    settings = settings_of(directory)
    if settings.saved:
        raise ValueError(
            f"{directory}: got {SAVED}={list(settings.saved)}, weights of the base beside the "
            "adapter; expected an adapter alone; read both with `load_onto`"
        )
    if settings.method.needs_weight(settings.hyper) and weights is None:
        raise ValueError(f"{directory}: got no weights; expected those that the adapter began from")
    return _load(directory, settings, linears, names, weights, dtype)[0]


def load_onto(
    directory: str | os.PathLike, weights: Mapping[str, Any], *, linears: Mapping[str, Any],
    names: Mapping[str, str], dtype=jnp.float32,
) -> tuple[dict, Any]:  # fmt: skip
    """Read an adapter and the modules that trained whole beside it: (adapters, weights).

    Raises:
      ValueError: as `load` does; or `modules_to_save` match nothing, or something quantised.
    """
    settings = settings_of(directory)
    candidates = base_modules.tensors(weights, linears, names)
    if lost := [name for name in settings.saved if not base_modules.named([name], candidates)]:
        raise ValueError(
            f"{directory}: got {SAVED}={lost}, which match no array of the base; expected names of "
            "its modules, of none that model.quantize.where quantises"
        )
    beside = base_modules.named(settings.saved, candidates)
    shapes = {tensor.key: tensor.shape for tensor in beside}
    adapters, found = _load(directory, settings, linears, names, weights, dtype, shapes)
    return adapters, base_modules.put(weights, {tensor: found[tensor.key] for tensor in beside})


def _load(directory, settings, linears, names, weights, dtype, beside=None) -> tuple[dict, dict]:
    """Read adapters, and the tensors of these names and shapes beside them."""
    method, hyper = settings.method, settings.hyper
    chosen = settings.targeted(modules(linears, names)) if method.has_targets else []
    if settings.targets.parameters and not any(m.e.shared for m in chosen):
        raise ValueError(
            f"{directory}: got target_parameters={list(settings.targets.parameters)!r}, which "
            "match no experts of the model"
        )
    once, beside = method.shapes_once(chosen, hyper), beside or {}
    suffixes = {m.name: method.shapes(m, hyper) for m in chosen}
    wanted = once | {m.key(s): shape for m in chosen for s, shape in suffixes[m.name].items()}
    missing = f"target_modules {settings.targets.targets!r} match no module that "
    missing += f"{method.peft_type} adapts"
    candidates = modules(linears, names)
    copies = embedding.copies(candidates) if method.has_targets else {}
    path = pathlib.Path(directory) / WEIGHTS
    found = read_tensors(path, wanted, beside, nothing=missing, optional=copies)
    own = copies.keys() - beside.keys() - wanted.keys()
    embedding.check_copies(directory, {name: found[name] for name in sorted(own & found.keys())},
                           candidates=candidates, weights=weights)  # fmt: skip
    tensors = {name: found[name].astype(dtype) for name in wanted}
    shared = method.complete(chosen, hyper, {name: tensors[name] for name in once})
    if not method.has_targets:
        return method.build_once(hyper, shared), found
    arrays, layers = tree.paths(weights), collections.defaultdict(dict)
    for m in chosen:
        own = {s: tensors[m.key(s)] for s in suffixes[m.name]}
        layers[m.path][m.layer] = method.from_torch(m, hyper, shared | own)
        if method.needs_weight(hyper):
            w = arrays[m.path] if m.layer is None else arrays[m.path][m.layer]
            layers[m.path][m.layer] = method.on_weight(m, hyper, layers[m.path][m.layer], w)
    result: dict = {}
    for site, own in layers.items():
        protocol.insert(result, site, _stack(method, own, linears[site].stack))
    return result, found


def read_tensors(path: pathlib.Path, wanted, beside=None, *, nothing: str, optional=None) -> dict:
    """Read the wanted tensors of a file, those beside them, and the optional ones that are there.

    Raises:
      ValueError: one is missing or misshapen, there are others, or none is wanted, because of
        `nothing`.
    """
    every = wanted | (beside or {})
    with files.open_tensors(path) as handle:
        names = [name for name in handle.keys() if name != peft_config.SCORE]  # noqa: SIM118
        stored = {name: handle.get_slice(name) for name in names}
        shapes = {name: tuple(part.get_shape()) for name, part in stored.items()}
        every |= {name: shape for name, shape in (optional or {}).items() if name in shapes}
        lines = files.complaints(every, shapes)
        if lines or not wanted:
            listed = files.listing(lines or [nothing])
            raise ValueError(f"{path}: differs from its config: {listed}")
        return {name: stored[name][:] for name in every}


def _stack(method: Format, layers: Mapping[int | None, Any], stack: int | None):
    """Stack the layers of one path; one that is not adapted changes nothing."""
    if stack is None:
        return jax.tree.map(jnp.asarray, tree.unshared(layers[None]))
    present = dict(zip(layers, method.align(list(layers.values())), strict=True))
    some = next(iter(present.values()))
    rows = [present.get(layer, method.absent(some)) for layer in range(stack)]

    def join(one, *leaves):
        if tree.is_shared(one):
            return jax.tree.map(jnp.asarray, one)
        return jnp.asarray(np.stack(leaves))

    return jax.tree.map(join, some, *rows, is_leaf=tree.is_shared)


# -- writing ---------------------------------------------------------------------------------------


def save(
    directory: str | os.PathLike, adapters: Mapping[str, Any], *, linears: Mapping[str, Any],
    names: Mapping[str, str], base_model: str | None, hyper: Mapping[str, Any] | None = None,
    dtype=np.float32, weights: Mapping[str, Any] | None = None, trained: Collection[str] = (),
    complete: Callable[[pathlib.Path], None] = lambda draft: None, scores: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Write a tree of adapters of one method; the directory appears when it is complete.

    Args:
      directory: new or empty. adapters, linears, names: as `load` has them.
      base_model: the name or path of the base, for PEFT.
      hyper: the keywords that the method was made with, for what its arrays do not say.
      dtype: of the tensors.
      weights: the model's parameters, of which those at the paths `trained` are written whole.
      complete: adds files before the directory appears.
      scores: the head [1, D] that a classifier has in place of its own.

    Raises:
      ValueError: PEFT has no such method, there are several or none, or `trained` are no modules.
    """
    found, candidates = protocol.sites(adapters), modules(linears, names)
    embedding.check_tied(found, linears)
    method = _method_of(found, {m.path for m in candidates})
    layers, tensors = _by_module(method, found, candidates)
    targets = _shortest(method, layers, candidates) if method.has_targets else None
    config = peft_config.write(targets, peft_type=method.peft_type, base_model=base_model)
    if trained:
        beside, saved = _whole(weights, trained, linears, names, set(layers))
        tensors, config = tensors | beside, config | {SAVED: saved}
    if scores is not None:
        tensors[peft_config.SCORE], config = scores, peft_config.classifier(config)
    config |= method.write(layers or found, hyper or {})
    if "fan_in_fan_out" in config:  # PEFT's name for weights kept as (in, out)
        adapted = [m.linear for m in candidates if m.name in layers]
        config["fan_in_fan_out"] = any(linear.inputs_first for linear in adapted)
    with files.publish(directory) as draft:
        files.write_tensors(draft / WEIGHTS, {n: x.astype(dtype) for n, x in tensors.items()})
        own = {key: config[key] for key in sorted(config.keys() - method.lacks)}
        files.write_json(draft / CONFIG, own)
        complete(draft)


def _by_module(method: Format, found, candidates: list[Module]) -> tuple[dict, dict]:
    """Return the adapters by module name, and all tensors of the file."""
    layers, tensors = {}, method.to_torch_once(found)
    for m in nested([m for m in candidates if m.path in found]):
        own = method.trim(of_layer(found[m.path], m.layer))
        if own is not None:
            layers[m.name] = own
            tensors |= {m.key(s): tensor for s, tensor in method.to_torch(m, own).items()}
    if not tensors:
        raise ValueError("adapters: got none that is not zero; there is nothing to write")
    return layers, tensors


def _whole(weights, trained: Collection[str], linears, names, adapted: set[str]):
    """Collect the tensors of modules that trained whole, and the names that mean them."""
    candidates = base_modules.tensors(weights, linears, names)
    chosen = base_modules.of_paths(trained, candidates)
    if both := sorted(adapted & {tensor.module for tensor in chosen}):
        raise ValueError(
            f"trainable: got weights of {conf.listed(both)}, which have an adapter too; PEFT has "
            "one or the other; merge the adapter into the model instead"
        )
    arrays = tree.paths(weights)
    tensors = {tensor.key: tensor.to_torch(arrays[tensor.path]) for tensor in chosen}
    return tensors, list(base_modules.shortest(chosen, candidates))


def of_layer(adapter, layer: int | None):
    """Take one layer of a stacked adapter, as numpy arrays; None stands for one that is alone."""
    at = () if layer is None else layer
    one = tree.map_stacked(lambda leaf: leaf[at], adapter)
    return jax.tree.map(np.asarray, tree.unshared(one))


def _method_of(found: Mapping[str, protocol.Adapter], known: set[str]) -> Format:
    """Find the one method that writes all these adapters."""
    if not found:
        raise ValueError("adapters: got none; there is nothing to write")
    for method in formats().values():
        fits = lambda path, x, m=method: (
            isinstance(x, m.kinds) and (path in known or not m.has_targets)
        )
        if all(fits(path, adapter) for path, adapter in found.items()):
            return method
    kinds = conf.listed({type(adapter).__name__ for adapter in found.values()})
    legal = conf.listed(kind.__name__ for m in formats().values() for kind in m.kinds)
    raise ValueError(
        f"adapters: got {kinds} at {conf.listed(found)}; expected adapters of one method that PEFT "
        f"has ({legal}), at linear maps; merge them into the model instead"
    )


def _shortest(method: Format, layers, candidates: list[Module]) -> peft_config.Targets:
    """Find the shortest targets that mean exactly the modules of these adapters, by name."""
    wanted = {name for name, own in layers.items() if method.is_target(own)}
    chosen = nested([m for m in candidates if m.name in wanted])
    maps = [m.name for m in chosen if not m.e.shared]
    endings = tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in maps))
    layers = {m.number for m in chosen if m.number is not None}
    some = () if "layers_to_transform" in method.lacks else tuple(sorted(layers))
    experts = sorted((m for m in chosen if m.e.shared), key=lambda m: (m.layer, -m.outer))
    parameters = tuple(m.name for m in experts)
    short = tuple(dict.fromkeys(name.split(".", 3)[-1] for name in parameters))
    some = () if "layers_to_transform" in method.lacks else tuple(sorted(layers))
    for own in (short, parameters):
        for kept in (None, some or None):
            shorter = peft_config.Targets(endings, layers=kept, parameters=own)
            if {m.name for m in targeted(method, shorter, candidates)} == wanted:
                return shorter
    return peft_config.Targets(tuple(maps), parameters=parameters)
