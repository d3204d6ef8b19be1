"""Models in the Hugging Face layout, in and out: config.json and safetensors files.

    family, config = config_of("llama3.2-1b")            # a preset, or a directory
    model = family.make(config)
    params = load(directory, model, names=family.NAMES, dtype=jnp.bfloat16, mesh=mesh)
    save(out, params, family=family, config=config)

A family is a module (see `hf.model_types`) with `from_hf`, `to_hf`, `make` and `NAMES`: our path ->
name template. A field of a template is a letter whose index numbers separate tensors, {L} being the
layer; {C:w1,w3} names them. The shape of each follows from the map's equation (see
`ftjax.core.torch_layout`).
"""

import dataclasses
import difflib
import functools
import itertools
import math
import os
import pathlib
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from types import ModuleType
from typing import Any

import jax
import numpy as np

from ftjax.core import einsum, files, tree
from ftjax.core import mesh as meshes
from ftjax.core import safetensors as tensors
from ftjax.core import torch_layout as layout
from ftjax.models import quantized
from ftjax.models.hf import fused, model_types, presets, shards

CONFIG, WEIGHTS, INDEX = "config.json", shards.WEIGHTS, shards.INDEX
families, family_of = model_types.families, model_types.family_of
READERS = 4  # threads, each at a tensor
# Rotary frequencies and causal masks, which old exports keep though they follow from the config.
BUFFERS = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


# -- configs ---------------------------------------------------------------------------------------


def config_of(name_or_dir: str | os.PathLike) -> tuple[ModuleType, Any]:
    """Find the family and the config of a preset name or of a directory with a config.json.

    Raises:
      ValueError: neither; the nearest preset names are offered. Or the config is not supported.
    """
    config_json = config_json_of(name_or_dir)
    family = family_of(config_json.get("model_type"))
    return family, family.from_hf(config_json)


def config_json_of(name_or_dir: str | os.PathLike) -> dict[str, Any]:
    """Return the config.json of a preset or a directory."""
    if str(name_or_dir) in presets.PRESETS:
        return dict(presets.PRESETS[str(name_or_dir)])
    directory = pathlib.Path(name_or_dir)
    if directory.is_dir():
        return files.read_json(directory / CONFIG)
    # Names of the Hub have capitals, presets have none.
    near = difflib.get_close_matches(str(name_or_dir).lower(), presets.PRESETS, n=3, cutoff=0.4)
    raise ValueError(
        f"model: got {str(name_or_dir)!r}; expected a directory with a {CONFIG} or a preset: "
        f"{', '.join(near or sorted(presets.PRESETS))}"
    )


# -- which tensors a model is made of --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Stored:
    """How one parameter of ours lies in a checkpoint: one tensor per index of the template."""

    template: str
    letters: str
    shape: tuple[int, ...]
    layout: layout.Layout  # of one tensor
    layers: tuple[int, ...]  # the numbers of a stack's layers

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter."""
        return einsum.sizes(self.letters, self.shape)

    @property
    def elements(self) -> int:
        """Count the elements of one tensor."""
        return math.prod(self.sizes[c] for c in self.layout.letters)

    def names(self) -> Iterator[tuple[tuple, str]]:
        """List (index of our array, tensor name)."""
        return self.within(tuple(slice(0, size) for size in self.shape))

    def within(self, part: Sequence[slice]) -> Iterator[tuple[tuple, str]]:
        """List the tensors that a part of our array is made of, by their index in that part."""
        inner = [c in self.layout.letters for c in self.letters]
        spans = [(0, 1) if own else (s.start, s.stop) for own, s in zip(inner, part, strict=True)]
        for at in itertools.product(*(range(*span) for span in spans)):
            local = (i - start for i, (start, _) in zip(at, spans, strict=True))
            index = (slice(None) if own else i for own, i in zip(inner, local, strict=True))
            yield tuple(index), self.name(dict(zip(self.letters, at, strict=True)))

    def name(self, at: Mapping[str, int]) -> str:
        """Name the tensor of one index, by letter."""
        parts = []
        for text, letter, choices, _ in string.Formatter().parse(self.template):
            number = None if letter is None else at[letter]
            # L counts the layers of a stack, names of tensors those of the model.
            number = self.layers[number] if letter == "L" else number
            word = "" if letter is None else choices.split(",")[number] if choices else number
            parts.append(f"{text}{word}")
        return "".join(parts)


def fields(template: str) -> str:
    """List the letters that a name template is indexed by."""
    return "".join(field for _, field, _, _ in string.Formatter().parse(template) if field)


def stored(model, names: Mapping[str, str]) -> dict[str, Stored]:
    """Describe every parameter of `model` as it lies in a checkpoint, by our path."""
    letters, shapes, groups = tree.paths(model.axes), tree.paths(model.abstract), model.stored
    result = {}
    for path, shape in shapes.items():
        indexed = fields(names[path])
        form = layout.Layout(tuple(groups[path].split(",")), letters[path]).without(indexed)
        layers = model.stacks.get(path.split("/")[0], ())
        result[path] = Stored(names[path], letters[path], shape.shape, form, layers)
    return result


def _expected(plan: Mapping[str, Stored]) -> dict[str, tuple[int, ...]]:
    return {
        name: s.layout.torch_shape(s.sizes) for s in plan.values() for _, name in s.names()
    }  # fmt: skip


# -- reading ---------------------------------------------------------------------------------------


def load(
    directory: str | os.PathLike, model, *, names: Mapping[str, str], dtype=None, mesh=None,
    quantizers: quantized.Quantizers | None = None,
):  # fmt: skip
    """Read a model's parameters straight into (sharded) arrays, one parameter at a time.

    Each device's part is read from the files by itself, layer by layer; the host never holds more
    than one stacked parameter beside the arrays.

    Args:
      directory: has model.safetensors, or an index and its shards.
      model: the handle. names: its family's table.
      dtype: the type to convert to, of all or by path; the files' own when None.
      mesh: where the arrays lie, by their letters; one device when None.
      quantizers: what to quantise while reading, layer by layer (see `quantized.make_quantizers`).

    Raises:
      ValueError: tensors are missing, unexpected, misshapen or not of a float type; all are listed.
    """
    plan = stored(model, names)
    found = _named_in_full(_open(pathlib.Path(directory)), names)
    found = fused.unfused(found, _expected(plan))
    spare = model.config.spare_tensors
    _check(directory, plan, found, optional=set(names.values()), spare=spare)
    source = Source(plan, found, mesh)

    def leaf(path, _):
        if path not in (quantizers or {}):
            return source.array(path, dtype[path] if isinstance(dtype, Mapping) else dtype)
        if (count := model.linears[path].stack) is None:
            # In the files' own type: a cast before would be one rounding more.
            return jax.jit(quantizers[path])(source.array(path, None))
        read, letters = functools.partial(source.layer, path), plan[path].letters
        return quantized.gather(quantizers[path], read, count, letters=letters, mesh=mesh)

    return tree.map_with_paths(leaf, model.abstract)


def types(directory: str | os.PathLike, model, *, names: Mapping[str, str]) -> dict[str, np.dtype]:
    """Read from the headers of a checkpoint's files which type every parameter is stored in.

    Raises ValueError as `load` does.
    """
    plan = stored(model, names)
    found = _named_in_full(_open(pathlib.Path(directory)), names)
    found = fused.unfused(found, _expected(plan))
    spare = model.config.spare_tensors
    _check(directory, plan, found, optional=set(names.values()), spare=spare)
    return {path: _kind(own, found) for path, own in plan.items()}


def _kind(own: Stored, found: Mapping[str, tensors.Tensor]) -> np.dtype:
    first = next(own.names())[1]
    return np.dtype(tensors.FLOATS[found[first].kind])


@dataclasses.dataclass(frozen=True)
class Source:
    """The open files of a checkpoint, and where the arrays read from them will lie."""

    plan: Mapping[str, Stored]
    found: Mapping[str, tensors.Tensor]
    mesh: jax.sharding.Mesh | None

    def array(self, path: str, dtype) -> jax.Array:
        """Read a whole parameter; in the files' own type if `dtype` is None."""
        own = self.plan[path]
        read = _reader(own, self.found, np.dtype(dtype or _kind(own, self.found)))
        place = self._place(own.letters, own.shape)
        return jax.make_array_from_callback(own.shape, place, read)

    def layer(self, path: str, at: int) -> jax.Array:
        """Read one layer of a stacked parameter, in the files' own type."""
        own = self.plan[path]
        read = _reader(own, self.found, _kind(own, self.found))
        letters, shape = own.letters[1:], own.shape[1:]
        one = lambda index: read((slice(at, at + 1), *index))[0]
        return jax.make_array_from_callback(shape, self._place(letters, shape), one)

    def _place(self, letters: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        if self.mesh is None:
            return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.sharding.NamedSharding(self.mesh, meshes.spec(letters, shape, self.mesh))


def _open(directory: pathlib.Path) -> dict[str, tensors.Tensor]:
    """Open a checkpoint's files; returns every tensor where it lies, by name."""
    if (directory / INDEX).is_file():
        index = files.read_json(directory / INDEX).get("weight_map")
        if not isinstance(index, dict):
            raise ValueError(f"{directory / INDEX}: got no weight_map; expected name -> file")
        # An index is foreign text: its names must not lead out of the directory.
        paths = [files.inside(directory, name) for name in dict.fromkeys(index.values())]
    else:
        paths = [files.inside(directory, WEIGHTS)]
    found: dict[str, tensors.Tensor] = {}
    for path in paths:
        own = tensors.mapped(path)
        for name in own.keys() & found.keys():
            # Which of the two counts would depend on the order of the files.
            raise ValueError(f"{path}: the tensor {name!r} is in another file already")
        found |= own
    return found


def _named_in_full(found: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Name the tensors of a decoder that was saved without its head as in a whole model.

    Such files lack the first part of every name, `transformer.` or `model.`.
    """
    prefix, _, embed = names["embed"].partition(".")
    if embed not in found:
        return found
    return {f"{prefix}.{name}": tensor for name, tensor in found.items()}


def _is_spare(name: str, patterns: Sequence[str]) -> bool:
    """Return whether the model has no part for a tensor that a file may have."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _check(where, plan: Mapping[str, Stored], found: Mapping[str, Any], *, optional, spare) -> None:
    """Compare the files with the plan; a tied model may repeat its embedding as `lm_head`."""
    expected = _expected(plan)
    # Of `optional` only names without a field match a tensor: the `lm_head` of a tied model.
    passed = lambda name: name in optional or name.endswith(BUFFERS) or _is_spare(name, spare)
    ignored = {name for name in found if passed(name)}
    shapes = {name: tensor.shape for name, tensor in found.items()}
    lines = files.complaints(expected, shapes, ignored=ignored)
    for name in expected.keys() & found.keys():
        if (kind := found[name].kind) not in tensors.FLOATS:
            lines.append(f"{name} has type {kind}, expected one of {', '.join(tensors.FLOATS)}")
    if lines:
        raise ValueError(f"{where}: got other tensors than the config says: {files.listing(lines)}")


def _reader(plan: Stored, found: Mapping[str, tensors.Tensor], dtype: np.dtype):
    """Make `index -> numpy array` of one parameter; replicas share what was read."""
    done: dict[tuple, np.ndarray] = {}

    def read(index: tuple[slice, ...]) -> np.ndarray:
        spans = tuple(s.indices(n)[:2] for s, n in zip(index, plan.shape, strict=True))
        if spans not in done:
            cuts = dict(zip(plan.letters, (slice(*span) for span in spans), strict=True))
            inner = [cuts[c] for c in plan.layout.letters]
            # On pages that a CPU device takes over: the array is not copied once more.
            part = tensors.empty([stop - start for start, stop in spans], dtype)

            def fill(at, name):
                stored = plan.layout.read(found[name].array, plan.sizes, inner)
                layout.copy(part[(*at, ...)], stored, done=found[name].release)

            # numpy copies without the interpreter's lock, so threads read in parallel.
            with futures.ThreadPoolExecutor(READERS) as pool:
                list(pool.map(fill, *zip(*plan.within(tuple(cuts.values())), strict=True)))
            done[spans] = part
        return done[spans]

    return read


# -- writing ---------------------------------------------------------------------------------------


def save(
    directory: str | os.PathLike, params, *, family: ModuleType, config, dtype=None,
    max_shard_gb: float = 5.0, extra: Mapping[str, Any] | None = None,
    source: str | os.PathLike | None = None,
    complete: Callable[[pathlib.Path], None] = lambda draft: None,
) -> None:  # fmt: skip
    """Write a model that transformers loads; the directory appears when it is complete.

    Args:
      directory: new or empty.
      params: the model's tree, without adapters (see `ftjax.adapters.lib.protocol.merge`).
      family, config: as from `config_of`.
      dtype: the type to convert to; the arrays' own when None.
      max_shard_gb: larger models are split into files of at most this many 10^9 bytes.
      extra: more keys of config.json, such as eos_token_id.
      source: the checkpoint that the model came from, a directory: what it has of tensors that the
        text model has no part for, such as a vision tower, goes along as it is.
      complete: adds files to the directory before it appears.
    """
    arrays = tree.paths(params)
    plan = stored(family.make(config), family.NAMES)
    shapes = {path: leaf.shape for path, leaf in arrays.items()}
    lines = files.complaints({path: s.shape for path, s in plan.items()}, shapes)
    if lines:
        raise ValueError(f"save {directory}: params and config differ: {files.listing(lines)}")
    # config.json has room for one type: that of the embedding stands for all.
    kind = np.dtype(dtype or arrays["embed"].dtype)
    with files.publish(directory) as draft:
        entries = [*_entries(plan, arrays, kind), *_spare(source, config)]
        shards.write(draft, entries, int(max_shard_gb * 1e9))
        # The older dialect and its name of the type: every release reads them.
        known = {"torch_dtype": kind.name, "use_cache": True}
        files.write_json(draft / CONFIG, family.to_hf(config) | known | dict(extra or {}))
        complete(draft)


def _entries(plan: Mapping[str, Stored], arrays, dtype: np.dtype) -> Iterator[shards.Entry]:
    """List the tensors of a model."""
    for path, own in plan.items():
        for index, name in own.names():
            make = lambda path=path, own=own, index=index: own.layout.to_torch(
                np.asarray(arrays[path][index]).astype(dtype)
            )
            yield shards.Entry(name, dtype.itemsize * own.elements, make)


def _spare(source: str | os.PathLike | None, config) -> Iterator[shards.Entry]:
    """List the tensors of a checkpoint that the model has no part for."""
    if source is None or not config.spare_tensors:
        return
    for name, tensor in _open(pathlib.Path(source)).items():
        if _is_spare(name, config.spare_tensors):
            yield shards.Entry(
                name, tensor.stop - tensor.start, lambda own=tensor: np.array(own.array)
            )
