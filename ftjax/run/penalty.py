"""The penalties of a run: `penalties` in a config, built, and what they compare with.

    c.penalties.near = dict(name="l2sp", weight=0.01)
    c.penalties.old = dict(name="ewc", weight=1.0, data=dict(name="jsonl", path="old.jsonl"))

`data` is a section as `c.data` is, whose length is the run's unless it says otherwise; rows are not
packed. What a penalty prepares lies in frozen["penalties"][label], sharded like what it is about,
and is made anew when a run goes on: from the weights that it began with, and the same data.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ftjax.core import config as conf
from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.data import kinds
from ftjax.data import loader as loaders
from ftjax.penalties.lib.penalty import Penalty
from ftjax.train import state as states


class Prepared(NamedTuple):
    """A penalty and the batch that it is prepared from, None where it reads no data."""

    penalty: Penalty
    batch: dict[str, np.ndarray] | None

    def digest(self, spec: Mapping) -> str:
        """Hash what its arrays are a function of, beside the weights that a run starts from."""
        # Not of the file: what counts is the batch that came out of it, as it is encoded.
        found = hashlib.sha256(repr(sorted(spec.items())).encode())
        for name, array in sorted((self.batch or {}).items()):
            found.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]


def build(parts) -> dict[str, Prepared]:
    """Build the penalties by label; each is traced once, to see that it finds what it is about.

    Raises:
      ValueError: naming penalties.<label> and its key.
    """
    found = {label: _one(spec, parts, where=f"penalties.{label}")
             for label, spec in parts.settings.penalties.items()}  # fmt: skip
    for label, prepared in abstract(found, parts).items():
        jax.eval_shape(found[label].penalty.value, parts.abstract, prepared)
    return found


def _one(spec: Mapping, parts, *, where: str) -> Prepared:
    spec = dict(spec)
    data = spec.pop("data", None)
    trainable, _ = states.split(parts.abstract, parts.patterns)
    offered = dict(linears=parts.model.linears, trains=set(tree.paths(trainable)))
    penalty = conf.build(spec, "penalties", where=where, **offered)
    if bool(penalty.rows) != (data is not None):
        got, wanted = ("none", "a section") if penalty.rows else ("a section", "none")
        fix = "name the old data to keep in mind" if penalty.rows else "drop it"
        raise ValueError(f"{where}.data: got {got} for {spec['name']!r}; expected {wanted}; {fix}")
    if data is None:
        return Prepared(penalty, None)
    return Prepared(penalty, _batch(dict(data), parts, penalty.rows, where=f"{where}.data"))


def _batch(data: dict, parts, rows: int, *, where: str) -> dict[str, np.ndarray]:
    """Encode the first rows of a data section, as many as there are at most."""
    conf.check(data, dict, where=where)
    loaders.check_types(data, where=where)
    # Not packed: EWC squares the gradient of a row, which is to be that of one sequence.
    data = dict(max_tokens=parts.settings.data["max_tokens"], packing="none", shuffle=False) | data
    own = dict(tokenizer=parts.tokenizer, batch_size=rows, seed=parts.settings.seed.data)
    loader = loaders.make(**data, **own)
    if kinds.BATCHES[loader.data.kind].judged:
        raise ValueError(
            f"{where}.kind: got {data.get('kind')!r}; expected {kinds.names_of(kinds.TOKENS)}: "
            "sequences and not answers to compare; change it"
        )
    return loader.batch(0)


def abstract(found: Mapping[str, Prepared], parts) -> dict:
    """Return shapes, types and shardings of frozen["penalties"]."""
    made = jax.eval_shape(_preparing(found, parts), parts.abstract, _batches(found))
    place = lambda path, leaf: leaf.update(sharding=_sharding(path, leaf, parts))
    return tree.map_with_paths(place, made)


def arrays(found: Mapping[str, Prepared], parts, params: Mapping) -> dict:
    """Make frozen["penalties"] of the parameters before the first step; nothing where none is."""
    if not found:
        return {}
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract(found, parts))
    # Made where it lies: one device may not hold a copy of all weights.
    prepare = jax.jit(_preparing(found, parts), out_shardings=places)
    with jax.set_mesh(parts.mesh):
        return prepare(params, _batches(found))


def _batches(found: Mapping[str, Prepared]) -> dict:
    return {label: one.batch for label, one in found.items()}


def _preparing(found: Mapping[str, Prepared], parts):
    # Batches are arguments, or they would be constants of the program.
    def prepare(params, batches):
        call = lambda label, one: one.penalty.prepare(params, parts.model, batches[label])
        return {label: call(label, one) for label, one in found.items()}

    return prepare


def _sharding(path: str, leaf, parts) -> Any:
    """Place an array like the parameter whose path its own ends in, else on every device."""
    for part in ("model", "adapters"):
        _, is_about, rest = path.partition(f"/{part}/")
        letters = tree.paths(parts.letters[part]) if is_about else {}
        # Of a quantised weight, what is prepared is dense and has the letters of the weight.
        dense = tree.paths(parts.model.axes) if part == "model" else letters
        if own := dense.get(rest, letters.get(rest)):
            return jax.sharding.NamedSharding(parts.mesh, meshes.spec(own, leaf.shape, parts.mesh))
    return meshes.replicated(parts.mesh)


def identity(found: Mapping[str, Prepared], settings) -> dict:
    """Name the penalties for a checkpoint's manifest: the hash of each."""
    return {label: one.digest(settings.penalties[label]) for label, one in found.items()}
