"""From a config to the parts of a run; whatever can be wrong with a config is found here.

    parts = build(Reader(config))       reads files, compiles nothing, puts nothing on a device
    params = weights(parts)             {"model": ..., "adapters": ...} on the mesh

`parts` is enough for training, evaluation, generation and export, so that every main builds a run
in the same way.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.adapters import base as adapters
from ftjax.adapters import peft
from ftjax.core import conf, tree
from ftjax.core import mesh as meshes
from ftjax.data import tokenizer as tokenizers
from ftjax.models import hf
from ftjax.train import state as states

EMBEDDED = "tiny"


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a config says, resolved: a mesh, a model without arrays, a tokenizer, an adapter."""

    config: dict
    mesh: jax.sharding.Mesh
    family: ModuleType
    model: Any
    source: pathlib.Path | None  # directory of the base's weights; None = random
    tokenizer: Any
    tokenizer_source: pathlib.Path
    method: Callable | None  # initialiser of adapters
    patterns: tuple[str, ...]  # what trains

    @property
    def abstract(self) -> dict:
        """Shapes and types of {"model", "adapters"}, with shardings."""
        c = self.config
        dtype = c["model"]["param_dtype"]
        as_stored = lambda leaf: leaf.update(dtype=dtype) if dtype else leaf
        model = jax.tree.map(as_stored, jax.eval_shape(self.model.init, jax.random.key(0)))
        inside = None
        if self.method is not None:
            inside = jax.eval_shape(self._init_adapters, jax.random.key(0), model)
        params = {"model": model, "adapters": inside}
        places = meshes.shardings(states.axes(self.model, inside), params, self.mesh)
        place = lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s)
        return jax.tree.map(place, params, places)

    def _init_adapters(self, key, model):
        where = self.config["adapter"]["where"]
        return adapters.init(self.method, key, self.model.linears, model, where=where)


def build(config: conf.Reader) -> Parts:
    """Resolve everything of a config but its data and evaluations.

    Raises:
      ValueError: names the key, what it holds and what was expected.
    """
    plain = conf.to_dict(config)
    mesh = meshes.make(**plain["mesh"])
    family, model, source = _model(plain["model"])
    found = _tokenizer_source(plain["tokenizer"], source)
    tokenizer = tokenizers.load(found)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"tokenizer: got {tokenizer.vocab_size} tokens for a model of "
            f"{model.config.vocab_size}; expected at most as many; choose the base's own tokenizer"
        )
    method = _method(plain["adapter"])
    patterns = plain["trainable"] or (("adapters/**",) if method else ("model/**",))
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    return Parts(plain, mesh, family, model, source, tokenizer, found, method, patterns)


def _model(c: Mapping) -> tuple[ModuleType, Any, pathlib.Path | None]:
    if bool(c["base"]) == bool(c["preset"]):
        raise ValueError(
            f"model: got base={c['base']!r} and preset={c['preset']!r}; expected one of them: a "
            "base to fine-tune, or a preset to train from random weights"
        )
    source = pathlib.Path(locate(c["base"])) if c["base"] else None
    family, config = hf.config_of(source or c["preset"])
    dtype = _dtype(c["compute_dtype"], "model.compute_dtype")
    if c["param_dtype"]:
        _dtype(c["param_dtype"], "model.param_dtype")
    return family, family.make(config, remat=c["remat"], dtype=dtype), source


def locate(base: str) -> str:
    """Return the directory of a base: the embedded one for "tiny"."""
    if base == EMBEDDED:
        return str(pathlib.Path(hf.__file__).parent.parent / "assets" / "tiny")
    return base


def _dtype(name: str, where: str):
    legal = ("float32", "bfloat16", "float16")
    if name not in legal:
        raise ValueError(f"{where}: got {name!r}; expected one of {', '.join(legal)}")
    return jnp.dtype(name)


def _tokenizer_source(name: str, source: pathlib.Path | None) -> pathlib.Path:
    if name:
        return pathlib.Path(locate(name))
    if source is None:
        raise ValueError("tokenizer: got none, and random weights bring none; expected a path")
    return source


def _method(c: Mapping) -> Callable | None:
    if not c["name"]:
        return None
    spec = {key: value for key, value in c.items() if key != "where"}
    return conf.build(spec, "adapters", where="adapter")


# -- arrays ----------------------------------------------------------------------------------------


def weights(parts: Parts) -> dict:
    """Read (or draw) the base and initialise the adapters, straight onto the mesh."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract)
    seed = parts.config["seed"]
    if parts.source is None:
        init = jax.jit(parts.model.init, out_shardings=shardings["model"])
        model = init(jax.random.key(seed["init"]))
    else:
        dtype = parts.config["model"]["param_dtype"] or None
        names = parts.family.NAMES
        model = hf.load(parts.source, parts.model, names=names, dtype=dtype, mesh=parts.mesh)
    return {"model": model, "adapters": _adapters(parts, model, shardings["adapters"])}


def _adapters(parts: Parts, model, shardings):
    if parts.config["adapter_from"]:
        where = parts.config["adapter_from"]
        return peft.load(where, linears=parts.model.linears, names=parts.family.NAMES)
    if parts.method is None:
        return None
    init = jax.jit(parts._init_adapters, out_shardings=shardings)
    return init(jax.random.key(parts.config["seed"]["adapter"]), model)


def identity(parts: Parts) -> dict:
    """Name the frozen base for a checkpoint's manifest: where it is and what it hashes to."""
    if parts.source is None:
        preset, seed = parts.config["model"]["preset"], parts.config["seed"]["init"]
        return {"source": f"random {preset}", "hash": f"seed {seed}"}
    return {"source": str(parts.config["model"]["base"]), "hash": hf.fingerprint(parts.source)}


def counts(parts: Parts) -> dict[str, int]:
    """Count parameters and bytes: in all, trainable, and on the fullest device."""
    params = parts.abstract
    trainable, frozen = states.split(params, parts.patterns)
    local = lambda leaf: jnp.dtype(leaf.dtype).itemsize * _size(leaf.sharding.shard_shape(leaf.shape))
    own = sum(map(local, jax.tree.leaves(trainable)))
    return {
        "parameters": tree.size_of(params),
        "trainable_parameters": tree.size_of(trainable),
        "weights_bytes_per_device": own + sum(map(local, jax.tree.leaves(frozen))),
        "gradients_bytes_per_device": own,
    }


def _size(shape) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


# -- workdirs --------------------------------------------------------------------------------------


def read_config(workdir: pathlib.Path) -> conf.Reader:
    """Read the resolved config of a run.

    Raises:
      ValueError: the directory holds no run.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.is_file():
        raise ValueError(f"--workdir: got {str(workdir)!r}, which has no config.json; expected the "
                         "directory of a run of experiments.train")  # fmt: skip
    return conf.Reader(json.loads(path.read_text(encoding="utf-8")))
