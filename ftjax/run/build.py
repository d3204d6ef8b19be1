"""From settings to the parts of a run; whatever can be wrong with them is found here.

    parts = build(settings)       reads files, compiles nothing, puts nothing on a device
    params = weights(parts)       {"model": ..., "adapters": ...} on the mesh

`parts` is enough for training, evaluation, generation and export, so that every main builds a run
in the same way.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol, token_rows
from ftjax.adapters.multi import frozen_adapters
from ftjax.adapters.peft import io as peft
from ftjax.core import config as conf
from ftjax.core import files, tree
from ftjax.core import mesh as meshes
from ftjax.core.typed import Count, Natural, Patterns
from ftjax.data import tokenizer_files
from ftjax.models import quantized
from ftjax.models.hf import checkpoint, repository
from ftjax.objectives.losses import spec as specs
from ftjax.ops import loftq, quantize
from ftjax.run import (
    adapter_init,
    anchors,
    bases,
    new_tokens,
)
from ftjax.run import (
    objective as objectives,
)
from ftjax.run import (
    reference as references,
)
from ftjax.run.config import Settings
from ftjax.run.shared import Shared
from ftjax.train import state as states

# Of the adapter's keys; the others are the method's.
OURS = {
    "where": Patterns, "groups": Iterable[tuple[str, Mapping]], "past": Iterable[str],
    "token_ids": Iterable[Natural], "batches": Count | tuple, "data": Mapping | tuple,
}  # fmt: skip
LOW_RANK = ("lora", "dora", "adalora")
WHOLE = dict(adapters="adapters/**", model="model/**", head="head/**")


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the settings mean: a mesh, a model without arrays, a tokenizer, an adapter."""

    settings: Settings
    mesh: jax.sharding.Mesh
    family: ModuleType
    model: Any
    source: pathlib.Path | None  # directory of the base's weights; None = random
    tokenizer: Any
    tokenizer_source: pathlib.Path
    method: Callable | None  # initialiser of adapters
    groups: tuple[tuple[str, Callable], ...]  # and those of some paths, with other settings
    frozen_adapters: tuple[dict, ...]  # adapters of past tasks, which stay as they are
    patterns: tuple[str, ...]  # what trains
    quantizers: quantized.Quantizers  # what of the base is quantised, and how
    base: Any  # the model as the base's files have it: the same, less new tokens
    new_ids: tuple[int, ...]  # of `data.new_tokens`
    objective: ModuleType
    heads: tuple[str, ...]  # scalar heads that the objective trains
    reference: references.Reference

    @functools.cached_property
    def abstract(self) -> dict:
        """Shapes, types and shardings of {"model", "adapters"[, "head"][, "reference"]}."""
        kept = lambda path, leaf: leaf.update(dtype=self.dtypes[path])
        model = tree.map_with_paths(kept, self.model.abstract)
        model = jax.eval_shape(self.quantise, model)
        inside = None
        if self.method is not None:
            # A typed key, as the real one: its shape and type go into the trace.
            key = jax.eval_shape(lambda: jax.random.key(0))
            inside = jax.eval_shape(self.init_adapters, key, model)
        params = {"model": model, "adapters": inside}
        if self.heads:
            head = jax.ShapeDtypeStruct((self.model.config.dim,), jnp.float32)
            params["head"] = dict.fromkeys(self.heads, head)
        places = meshes.shardings(states.axes(self.model, params), params, self.mesh)
        place = lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s)
        own = jax.tree.map(place, params, places)
        return own | self.reference.abstract(own, self.mesh)

    @functools.cached_property
    def stored(self) -> dict[str, Any]:
        """The type in which the base's parameters are kept and exported, by path."""
        if dtype := self.settings.model.param_dtype:
            return dict.fromkeys(tree.paths(self.model.abstract), jnp.dtype(dtype))
        if self.source is None:
            return {path: leaf.dtype for path, leaf in tree.paths(self.model.abstract).items()}
        return checkpoint.types(self.source, self.base, names=self.family.NAMES)

    @functools.cached_property
    def dtypes(self) -> dict[str, Any]:
        """The type in memory of the base's parameters, by path: as stored, less what trains.

        An update is far smaller than a step between numbers of a lower type: most weights would
        stay where they are.
        """
        trains = jnp.dtype(self.settings.model.train_dtype)
        moves = lambda path: any(tree.matches(p, f"model/{path}") for p in self.patterns)
        return {path: trains if moves(path) else kept for path, kept in self.stored.items()}

    @property
    def spec(self) -> specs.Spec:
        """Return what the objective states about itself."""
        return specs.of(self.objective)

    @property
    def starts_as_base(self) -> bool:
        """Return whether adapters change nothing before the first step."""
        return adapter_init.is_base(self.settings, self.method, self.groups)

    @property
    def letters(self) -> dict:
        """Letters of everything that `abstract` has."""
        own = states.axes(self.model, self.abstract_policy)
        return own | self.reference.letters(own)

    @property
    def abstract_policy(self) -> dict:
        """What `abstract` has, less the reference."""
        return {name: part for name, part in self.abstract.items() if name != "reference"}

    @property
    def parameters(self) -> int:
        """The number of parameters; a quantised weight counts as what it stands for."""
        beside = {name: part for name, part in self.abstract_policy.items() if name != "model"}
        return tree.size_of(self.model.abstract) + tree.size_of(beside)

    def quantise(self, model):
        """Quantise what the settings say of a base."""
        return quantized.quantise(model, self.model, self.quantizers)

    @functools.cached_property
    def informed(self) -> dict[str, protocol.Informed]:
        """Methods by path of the sites whose adapters start from more than a weight."""
        if self.method is None or isinstance(self.method, protocol.OfModel):
            return {}
        where = dict(where=self.settings.adapter["where"], groups=self.groups)
        every = protocol.methods_at(self.method, self.model.linears, **where)
        return {path: own for path, own in every.items() if protocol.is_informed(own)}

    def needing(self, *needs: str) -> dict[str, protocol.Informed]:
        """Those of them that start from one of these."""
        return {path: own for path, own in self.informed.items() if own.needs in needs}

    def init_adapters(self, key: jax.Array, model, found=None):
        """Draw the adapters of this run over a base, around factors that were found for them."""
        where, linears = self.settings.adapter["where"], self.model.linears
        options = dict(where=where, groups=self.groups, sizes=self.model.config.sizes, found=found)
        # Starts such as PiSSA factor the weight, and codes of a quantised one cannot be factored.
        dense = quantize.dense(model, jnp.float32)
        fresh = protocol.init(self.method, key, linears, dense, **options)
        past = self.frozen_adapters
        found = frozen_adapters.over(fresh, past, linears=linears) if past else fresh
        for path, ids in self.trained_rows.items():
            found = token_rows.add_rows(found, dense[path], ids=ids, path=path)
        return found

    @functools.cached_property
    def trained_rows(self) -> dict[str, tuple[int, ...]]:
        """List the tokens whose rows train as adapters, by the path of the weight."""
        listed = {token_rows.PATH: tuple(self.settings.adapter.get("token_ids", ()))}
        if self.method is None:
            return {}
        found = new_tokens.beside(self.model, self.new_ids, patterns=self.patterns)
        own = {path: listed.get(path, ()) + found.get(path, ()) for path in listed | found}
        return {path: ids for path, ids in own.items() if ids}


def build(
    settings: Settings, *, mesh: jax.sharding.Mesh | None = None, shared: Shared | None = None
) -> Parts:  # fmt: skip
    """Resolve mesh, model, tokenizer, adapter, what trains, and what it is compared with.

    mesh: in place of the settings', such as one of a topology's devices; see `core.mesh.make`.
    shared: keeps the tokenizer for other runs.

    Raises:
      ValueError: names the key, what it holds and what was expected.
    """
    mesh = conf.call(meshes.make, settings.mesh, where="mesh") if mesh is None else mesh
    family, base, source = bases.read(settings.model)
    found, tokenizer, new_ids = _tokenizer(settings, source, base, shared)
    model = bases.sized(settings.model, base, source, vocab_size=tokenizer.vocab_size)
    meshes.check_sizes(model.config.sizes, mesh)
    method, groups = _methods(settings.adapter)
    if settings.adapter.get("name") in LOW_RANK:
        lora.check_width(settings.adapter["rank"], model.linears, where=settings.adapter["where"])
    past = tuple(
        peft.load(directory, linears=model.linears, names=family.NAMES)
        for directory in settings.adapter.get("past", ())
    )
    objective = objectives.module_of(settings)
    heads = specs.of(objective).heads
    patterns = _patterns(settings, adapted=method is not None, heads=heads)
    reference = references.build(
        settings.reference, objective=objective, locate=bases.locate, model=model,
        make=lambda directory: bases.of(settings.model, directory),
        starts_as_base=adapter_init.is_base(settings, method, groups),
        anchored=anchors.compare(settings), evaluated=references.is_evaluated(settings.evals),
    )  # fmt: skip
    quantizers = _quantizers(settings.model.quantize, model)
    parts = Parts(
        settings, mesh, family, model, source, tokenizer, found, method, groups, past, patterns,
        quantizers, base, new_ids, objective, heads, reference,
    )  # fmt: skip
    new_tokens.check(model, new_ids, adapted=method, patterns=patterns, quantized=quantizers)
    adapter_init.check(parts)
    return parts


def _patterns(settings: Settings, *, adapted: bool, heads: tuple[str, ...]) -> tuple[str, ...]:
    """Return what trains: as the settings say, else the adapters, or the model, and the heads."""
    if given := settings.trainable:
        return (given,) if isinstance(given, str) else tuple(given)
    return (WHOLE["adapters" if adapted else "model"], *((WHOLE["head"],) if heads else ()))


def _quantizers(spec: Mapping, model) -> quantized.Quantizers:
    if not spec.get("name"):
        return {}
    return conf.call(
        quantized.make_quantizers, spec, where="model.quantize", extra={"model": model}
    )


def check_weights(parts: Parts) -> None:
    """Check that the files which weights will be read from are there.

    Raises:
      ValueError: they are not.
    """
    if parts.source is not None and not any(parts.source.glob("*.safetensors")):
        raise ValueError(
            f"model.base: got {parts.settings.model.base!r}, which has no weights; expected a "
            "directory with *.safetensors; for random weights set model.preset"
        )
    if given := parts.settings.adapter_from:
        if parts.method is None:
            raise ValueError(
                f"adapter_from: got {given!r} and no adapter; expected adapter.name = 'lora', with "
                "adapter.where and adapter.rank as they are there"
            )
        # For its error alone: a wrong directory is refused before data are encoded.
        files.read_json(bases.adapter(given) / peft.CONFIG)


def _tokenizer(settings, source, base, shared) -> tuple[pathlib.Path, Any, tuple[int, ...]]:
    """Read the tokenizer with the run's new tokens: where it lies, itself, their ids."""
    path, tokens = _tokenizer_source(settings.tokenizer, source), new_tokens.of(settings.data)
    read = shared.tokenizer if shared else tokenizer_files.load
    tokenizer = read(str(path), new_tokens=tokens)
    _check_vocabulary(tokenizer.vocab_size - len(tokens), base)
    return path, tokenizer, tuple(map(tokenizer.token_id, tokens))


def _check_vocabulary(size: int, model) -> None:
    # Fewer are well: embeddings are padded to round sizes.
    if size > model.config.vocab_size:
        raise ValueError(
            f"tokenizer: got {size} tokens for a model of "
            f"{model.config.vocab_size}; expected at most as many; choose the base's own tokenizer"
        )


def _tokenizer_source(name: str, source: pathlib.Path | None) -> pathlib.Path:
    if name == bases.TINY:
        return bases.locate(bases.TINY)
    if name:
        return repository.tokenizer(name, where="tokenizer")
    if source is None:
        raise ValueError("tokenizer: got none, and random weights bring none; expected a path")
    return source


def _methods(spec: Mapping) -> tuple[Callable | None, tuple[tuple[str, Callable], ...]]:
    """Make the initialiser of adapters, and of `groups`: (path pattern, changed keywords) pairs."""
    if not spec.get("name"):
        return None, ()
    for key, annotation in OURS.items():
        conf.check(spec.get(key, ()), annotation, where=f"adapter.{key}")
    own = {key: value for key, value in spec.items() if key not in OURS}
    groups = [
        (pattern, conf.build(own | dict(changes), "adapters", where=f"adapter.groups[{pattern!r}]"))
        for pattern, changes in spec.get("groups", ())
    ]
    return conf.build(own, "adapters", where="adapter"), tuple(groups)


# -- arrays ----------------------------------------------------------------------------------------


def weights(
    parts: Parts, find: Callable[[Any], Mapping] | None = None, *, shared: Shared | None = None
) -> dict:  # fmt: skip
    """Read (or draw) the base and the adapters, straight onto the mesh; heads start at zero.

    find: of the base, the factors by path of adapters that start from data, see `starting`;
      without it they change nothing yet.
    shared: keeps the base for other runs.
    """
    base = shared.weights(parts, _base) if shared else _base(parts)
    params = _weights(parts, find, base, shared)
    for name in parts.heads:
        leaf = parts.abstract["head"][name]
        zeros = jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
        params.setdefault("head", {})[name] = zeros
    trains = tree.select(parts.patterns, tree.paths(params), where="trainable")
    return params | parts.reference.arrays(params, parts.mesh, trains=trains)


def _weights(parts: Parts, find, base: tuple[Any, dict], shared: Shared | None) -> dict:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract)
    seed = parts.settings.seed
    model, rests = base
    if parts.method is None:
        return {"model": model, "adapters": None}
    if parts.settings.adapter_from:
        return _given(parts, model, shardings["adapters"])
    # Compiled with its shardings, so that no device holds a whole factor on the way.
    make = lambda: jax.jit(parts.init_adapters, out_shardings=shardings["adapters"])
    init = shared.adapters(parts, make) if shared else make()
    # Data-dependent starts run the base, so they come after it and before the adapters.
    found = rests | (find(model) if find else {})
    own = init(jax.random.key(seed.adapter), model, found)
    return {"model": model, "adapters": own}


def _base(parts: Parts) -> tuple[Any, dict]:
    """Read or draw the base, and the factors of what quantising it for LoftQ loses.

    Both come of the dense weight while it is there: one layer of one matrix at a time.
    """
    quantizers = dict(parts.quantizers)
    for path, method in parts.needing("quantizer").items():
        quantizers[path] = loftq.over(
            parts.quantizers[path], parts.model.linears[path].equation,
            rank=method.options["rank"], iterations=method.options["iterations"],
        )  # fmt: skip
    if parts.source is None:
        # Drawn in float32 and rounded once, so that a seed is one model in every type.
        kept = lambda path, w: w.astype(parts.dtypes[path])
        drawn = lambda key: tree.map_with_paths(kept, parts.base.init(key))
        draw = lambda key: quantized.quantise(drawn(key), parts.base, quantizers)
        key = jax.random.key(parts.settings.seed.init)
        abstract = jax.eval_shape(draw, key)
        letters = quantize.axes(parts.base.axes, abstract)
        model = jax.jit(draw, out_shardings=meshes.shardings(letters, abstract, parts.mesh))(key)
    else:
        model = checkpoint.load(
            parts.source, parts.base, names=parts.family.NAMES, dtype=parts.dtypes,
            mesh=parts.mesh, quantizers=quantizers,
        )  # fmt: skip
    model, rests = loftq.part(model)
    return new_tokens.start(model, parts.new_ids, mesh=parts.mesh), rests


def _given(parts: Parts, model, shardings) -> dict:
    """Read the adapters to start from, and the modules of the base that trained beside them."""
    folder = bases.adapter(parts.settings.adapter_from)
    found, model = peft.load_onto(
        folder, model, linears=parts.model.linears, names=parts.family.NAMES
    )
    # By shape before anything is placed: a rank of another size would broadcast or fail in jax.
    wanted = jax.tree.map(lambda leaf: leaf.shape, parts.abstract["adapters"])
    if wanted != jax.tree.map(lambda leaf: leaf.shape, found):
        raise ValueError(
            f"adapter_from: got {parts.settings.adapter_from!r}, whose sites or ranks differ from "
            "the config's; expected the same; set adapter.where and adapter.rank to its own"
        )
    for path, ids in parts.trained_rows.items():
        if (own := tuple(found[path].ids.tolist())) != ids:
            raise ValueError(
                f"adapter_from: got rows of the tokens {own} at {path!r}; expected {ids}, those of "
                "adapter.token_ids and data.new_tokens"
            )
    # Modules that trained beside an adapter come in the type of their file.
    kept = lambda path, w: w if quantize.is_quantized(w) else w.astype(parts.dtypes[path])
    model = tree.map_with_paths(kept, model, is_leaf=quantize.is_quantized)
    return {"model": model, "adapters": jax.device_put(found, shardings)}
