"""The penalties of a run: `penalties` in a config, built, and what they compare with.

    c.penalties.near = dict(name="l2sp", weight=0.01)
    c.penalties.old = dict(name="ewc", weight=1.0, data=dict(name="jsonl", path="old.jsonl"))

`data` is a section as `c.data` is, whose length is the run's unless it says otherwise; rows are not
packed. What a penalty prepares lies in frozen["penalties"][label], sharded like what it is about,
and is made anew when a run goes on: from the weights that it began with, and the same data.

What a penalty leaves for a run after it, whose `past` names this one's workdir, is written there
when the run has ended: DIR/penalties/<label>.safetensors, by path of the weight.
"""

import hashlib
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from ftjax.core import config as conf
from ftjax.core import digest, files, safetensors, tree
from ftjax.core import mesh as meshes
from ftjax.data import kinds
from ftjax.data import loader as loaders
from ftjax.penalties.lib import path_integral
from ftjax.penalties.lib.penalty import Penalty
from ftjax.run import anchors
from ftjax.run.artifacts import Artifacts
from ftjax.train import state as states


class Prepared(NamedTuple):
    """A penalty, the batch that it is prepared from, and what a past run left; None: no such."""

    penalty: Penalty
    batch: dict[str, np.ndarray] | None
    past: dict[str, np.ndarray] | None = None

    def digest(self, spec: Mapping) -> str:
        """Hash what its arrays are a function of, beside the weights that a run starts from."""
        # Not of the file: what counts is the batch that came out of it, as it is encoded.
        found = hashlib.sha256(repr(sorted(spec.items())).encode())
        for name, array in sorted((self.batch or {}).items()) + sorted((self.past or {}).items()):
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
    if penalty.integrates:
        _check_integral(parts, spec["name"], where=where)
    batch = data and _batch(dict(data), parts, penalty.rows, where=f"{where}.data")
    return Prepared(penalty, batch, _past(penalty, parts, where=where))


def _check_integral(parts, name: str, *, where: str) -> None:
    """Check that the gradient by merged weights is one of the same loss."""
    compares = parts.spec.reference or anchors.compare(parts.settings)
    if compares and parts.method is not None and parts.reference.name == "adapters_off":
        raise ValueError(
            f"{where}.name: got {name!r} with adapters and a loss that compares with the same "
            "model, adapters off; expected another reference, since its gradient is by the merged "
            "weights; set reference.name='frozen'"
        )


def _past(penalty: Penalty, parts, *, where: str) -> dict[str, np.ndarray] | None:
    """Map what a penalty of the same label left in the workdir of a run before."""
    if not penalty.past:
        return None
    label = where.rpartition(".")[2]
    path = Artifacts(penalty.past).importance(label)
    if not path.is_file():
        raise ValueError(
            f"{where}.past: got {penalty.past!r}, which has no {path.name} under penalties; "
            f"expected the workdir of a run that ended, with penalties.{label} of this kind and a "
            "weight above 0; name another one, or drop it"
        )
    if problem := digest.file_problem(path):
        raise ValueError(f"{path}: got {problem}; restore it from a copy, or run that run again")
    found = {name: tensor.array for name, tensor in safetensors.mapped(path).items()}
    # Here and not inside of jit, whose error would name neither the run nor the weight.
    shapes = {name: leaf.shape for name, leaf in tree.paths(parts.model.abstract).items()}
    if wrong := sorted(name for name, x in found.items() if shapes.get(name) != x.shape):
        raise ValueError(
            f"{where}.past: got {penalty.past!r}, a run of another model: {wrong[0]} is "
            f"{list(found[wrong[0]].shape)} there and {shapes.get(wrong[0])} here; expected one of "
            "the same base"
        )
    return found


def _batch(data: dict, parts, rows: int, *, where: str) -> dict[str, np.ndarray]:
    """Encode the first rows of a data section, as many as there are at most."""
    conf.check(data, dict, where=where)
    loaders.check_types(data, where=where)
    # Not packed: EWC squares the gradient of a row, which is to be that of one sequence.
    data = dict(max_tokens=parts.settings.data["max_tokens"], packing="none", shuffle=False) | data
    own = dict(tokenizer=parts.tokenizer, batch_size=rows, seed=parts.settings.seed.data)
    loader = loaders.opened(data, where=where, **own)
    if kinds.BATCHES[loader.data.kind].judged:
        raise ValueError(
            f"{where}.kind: got {data.get('kind')!r}; expected {kinds.names_of(kinds.TOKENS)}: "
            "sequences and not answers to compare; change it"
        )
    return loader.batch(0)


def abstract(found: Mapping[str, Prepared], parts) -> dict:
    """Return shapes, types and shardings of frozen["penalties"]."""
    made = jax.eval_shape(_preparing(found, parts), parts.abstract, *_given(found))
    return placed(made, parts)


def placed(arrays: Any, parts) -> Any:
    """Give (abstract) arrays the shardings of the parameters that their paths end in."""
    place = lambda path, leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=_sharding(path, leaf, parts)
    )
    return tree.map_with_paths(place, arrays)


def arrays(found: Mapping[str, Prepared], parts, params: Mapping) -> dict:
    """Make frozen["penalties"] of the parameters before the first step; nothing where none is."""
    if not found:
        return {}
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract(found, parts))
    # Made where it lies: one device may not hold a copy of all weights.
    prepare = jax.jit(_preparing(found, parts), out_shardings=places)
    with jax.set_mesh(parts.mesh):
        made = prepare(params, *_given(found))
        for label, own in found.items():
            _warn(label, own.penalty.note, made[label])
    return made


def _warn(label: str, note, made: Mapping) -> None:
    """Warn where the arrays of a penalty hold nothing."""
    if note is None:
        return
    number = float(jax.jit(note.number)(made))
    if not number >= note.least:
        text = note.text.format(number=number, least=note.least)
        warnings.warn(f"penalties.{label}: {text}", RuntimeWarning, stacklevel=3)


def _given(found: Mapping[str, Prepared]) -> tuple[dict, dict]:
    """Return the batches and what past runs left, by label."""
    batches = {label: one.batch for label, one in found.items()}
    return batches, {label: one.past for label, one in found.items()}


def _preparing(found: Mapping[str, Prepared], parts):
    # Batches are arguments, or they would be constants of the program.
    def prepare(params, batches, past):
        call = lambda label, one: one.penalty.prepare(
            params, parts.model, batches[label], past[label]
        )
        return {label: call(label, one) for label, one in found.items()}

    return prepare


# -- what a run leaves -----------------------------------------------------------------------------


def integral(found: Mapping[str, Prepared], parts) -> dict | None:
    """Return the abstract path integral that the state of a run has; None: no penalty takes it."""
    if not any(own.penalty.integrates for own in found.values()):
        return None
    trainable, _ = states.split(parts.abstract, parts.patterns)
    shapes = path_integral.abstract(parts.abstract, set(tree.paths(trainable)), parts.model.linears)
    return placed({"of": shapes}, parts)["of"]  # a path needs a parent for its letters


def leave(
    found: Mapping[str, Prepared], parts, state: states.State, frozen, workdir: pathlib.Path
) -> None:
    """Write what the penalties of a run that has ended leave for the run after."""
    params = states.combine(state.params, frozen)
    for label, own in found.items():
        if own.penalty.leave is None:
            continue
        with jax.set_mesh(parts.mesh):
            left = jax.jit(own.penalty.leave)(params, frozen["penalties"][label], state.integral)
        # All processes gather, one writes.
        whole = {path: np.asarray(_whole(x)) for path, x in left.items()}
        if jax.process_index() == 0:
            path = Artifacts(workdir).importance(label)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_tensors(path, whole)
            # Last: what a kill cut short has no digest, or the wrong one.
            digest.sign(path)


def _whole(array):
    if array.is_fully_addressable:
        return array
    return multihost_utils.process_allgather(array, tiled=True)


# -- places and names ------------------------------------------------------------------------------


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
