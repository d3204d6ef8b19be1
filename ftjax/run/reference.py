"""What a run's policy is compared with, from `reference` in a config to arrays.

    c.reference = dict(name="adapters_off")         the base under the adapters: nothing to hold;
                                                    where they do not start as it, as "frozen",
                                                    unless it is a teacher
    c.reference = dict(name="frozen")               a copy of the weights that train
    c.reference = dict(name="average")              the run's own moving average, c.ema_decay: a
                                                    teacher that follows the student slowly
    c.reference = dict(name="cached", folder="")    log-probabilities, computed once
    c.reference = dict(name="model", base="DIR")    another model: a teacher

`cached` writes <hash>.npy to its folder (DIR/reference of the run when not given); the hash is of
the starting weights and the data, so a second run on them, or a resumed one, computes nothing.
"""

import dataclasses
import hashlib
import pathlib
import sys
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import config as conf
from ftjax.core import digest, processes, rounding, tree
from ftjax.core import mesh as meshes
from ftjax.evals.lib import scoring
from ftjax.models.hf import checkpoint
from ftjax.objectives.losses import spec as specs
from ftjax.run import bases
from ftjax.run.artifacts import Artifacts
from ftjax.train import reference_policy
from ftjax.train import state as states

# From what costs nothing to what costs most: no copy, a copy, a pass before, another model.
NAMES = ("adapters_off", "frozen", "average", "cached", "model")


@dataclasses.dataclass(frozen=True)
class Reference:
    """The reference of a run; `other` is (family, model, directory) of another model."""

    name: str
    folder: str
    other: tuple[ModuleType, Any, pathlib.Path] | None

    @property
    def function(self) -> Callable:
        """Return `(policy, batch) -> policy` for the step."""
        if self.other is not None:
            return reference_policy.other(self.other[1])
        # Its functions have the names that a config gives; the step puts an average in its place.
        return vars(reference_policy)["frozen" if self.follows else self.name]

    @property
    def follows(self) -> bool:
        """Whether it is the moving average of what trains, which the state of the run holds."""
        return self.name == "average"

    def letters(self, own: Mapping) -> dict:
        """Return the letters of params["reference"], if there is such a thing."""
        if self.name == "frozen":
            return {"reference": {name: own[name] for name in ("model", "adapters")}}
        return {"reference": self._letters} if self.other else {}

    @property
    def _letters(self) -> dict:
        model = self.other[1]
        return states.axes(model, {"model": model.abstract, "adapters": None})

    def abstract(self, own: Mapping, mesh) -> dict:
        """Return shapes, types and shardings of params["reference"]."""
        if self.name == "frozen":
            return {"reference": {name: own[name] for name in ("model", "adapters")}}
        if self.other is None:
            return {}
        family, model, directory = self.other
        types = checkpoint.types(directory, model, names=family.NAMES)
        # A teacher does not train, and stays in the types of its files.
        kept = lambda path, leaf: leaf.update(dtype=types[path])
        params = {"model": tree.map_with_paths(kept, model.abstract), "adapters": None}
        places = meshes.shardings(self._letters, params, mesh)
        place = lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s)
        return {"reference": jax.tree.map(place, params, places)}

    def arrays(self, own: Mapping, mesh, *, trains: set[str]) -> dict:
        """Make params["reference"]: copies of what trains, the rest shared; or read a model."""
        if self.name == "frozen":
            # The step donates what trains: a shared buffer would be gone after the first.
            copy = lambda path, leaf: jnp.copy(leaf) if path in trains else leaf
            kept = tree.map_with_paths(copy, dict(own))
            return {"reference": {name: kept[name] for name in ("model", "adapters")}}
        if self.other is None:
            return {}
        family, model, directory = self.other
        params = checkpoint.load(directory, model, names=family.NAMES, mesh=mesh)
        return {"reference": {"model": params, "adapters": None}}

    def params(self, params: Mapping) -> dict:
        """Return the reference's params, for evaluations that need it.

        Raises ValueError where it is not there.
        """
        if self.name == "adapters_off":
            return {**params, "adapters": None}
        if self.name == "frozen":
            return params["reference"]
        raise ValueError(
            f"evals: score='ratio' got reference.name={self.name!r}, whose weights are not held; "
            "expected 'adapters_off' or 'frozen'; use score='likelihood'"
        )


def build(
    spec, *, objective: ModuleType, locate: Callable, model: Any, make: Callable,
    starts_as_base: bool, anchored: bool = False, evaluated: bool = False,
):  # fmt: skip
    """Build the reference of a config.

    Args:
      spec: the section. objective: what may use it. model: the policy's.
      locate, make: `make(locate(base)) -> (family, model)`, for another model.
      starts_as_base: whether the run's adapters change nothing before the first step; if they do,
        the reference of "adapters_off" has them too, as they start: what the run starts from. A
        teacher has not.
      anchored: whether anchors compare with it, whatever the objective.
      evaluated: whether evaluations do, which take a copy that is held.

    Raises:
      ValueError: an unknown name, or one that nothing uses.
    """
    if spec.name not in NAMES:
        hint = conf.nearest(spec.name, NAMES)
        raise ValueError(
            f"reference.name: got {spec.name!r}; expected one of {', '.join(NAMES)}; {hint}"
        )
    uses = anchored or specs.of(objective).reference
    if spec.name != "adapters_off" and not uses and not (evaluated and spec.name == "frozen"):
        raise ValueError(
            f"reference.name: got {spec.name!r}, which objective {objective.__name__!r} does not "
            "use, nor an evaluation such as drift; expected 'adapters_off'; drop it"
        )
    own = specs.of(objective)
    _check_unread(spec, judged=own.batch.judged)
    other = _other(spec, locate, model, make) if spec.base else None
    # Else the first loss of a pair would compare the start with the bare base, and not be log 2. A
    # student that goes on from adapters would have itself for a teacher.
    compares = uses and not own.teacher
    holds_start = compares and spec.name == "adapters_off" and not starts_as_base
    return Reference("frozen" if holds_start else spec.name, spec.folder, other)


def is_evaluated(evals: Mapping) -> bool:
    """Return whether an evaluation asks for the base beside the model."""
    inputs = (
        conf.attribute(spec["name"], "evals", "INPUTS", where=f"evals.{label}.name") or ()
        for label, spec in evals.items()
        if "name" in spec  # else refused where evaluations are
    )
    return any("base" in names for names in inputs)


def _check_unread(spec, *, judged: bool) -> None:
    # One number a token is kept; a divergence needs the whole vocabulary's.
    if spec.name == "cached" and not judged:
        raise ValueError(
            "reference.name: got 'cached' for an objective of whole distributions; expected "
            "'adapters_off', 'frozen' or 'model': only log-probabilities of targets are kept"
        )
    if bool(spec.base) != (spec.name == "model"):
        raise ValueError(
            f"reference.base: got {spec.base!r} with name={spec.name!r}; expected a directory for "
            "name='model' and nothing otherwise"
        )
    if spec.folder and spec.name != "cached":
        raise ValueError(
            f"reference.folder: got {spec.folder!r} with name={spec.name!r}; expected none: only "
            "'cached' keeps files; drop it, or set reference.name='cached'"
        )


def _other(spec, locate: Callable, model, make: Callable) -> tuple:
    directory = locate(spec.base, where="reference.base")
    other = (*make(directory), directory)
    # Distributions are compared entry by entry.
    if other[1].config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"reference.base: got {other[1].config.vocab_size} tokens, and the model has "
            f"{model.config.vocab_size}; expected one vocabulary; choose a model of the family"
        )
    return other


def check(
    name: str, objective: ModuleType, trainable, *, anchored: bool = False, averages: bool = False
) -> None:  # fmt: skip
    """Check a reference against what trains, and what the run keeps of it.

    Raises:
      ValueError: adapters are switched off for a base that is itself trained, so that the policy
        would be compared with itself; or the run keeps no average.
    """
    if name == "average" and not averages:
        raise ValueError(
            "reference.name: got 'average' of a run that keeps none; expected ema_decay, such as "
            "0.99; set it, or take 'frozen'"
        )
    moves = any(path.startswith("model/") for path in tree.paths(trainable))
    uses = anchored or specs.of(objective).reference
    if uses and name == "adapters_off" and moves:
        raise ValueError(
            "reference.name: got 'adapters_off' while model weights train, so the reference would "
            "move along; expected 'frozen' (a copy) or 'cached' (no copy); set one of them"
        )


# -- log-probabilities computed once ---------------------------------------------------------------


def reserve(reference: Reference, store) -> None:
    """Make room for a cached reference in the data, so that batches have their shapes."""
    if reference.name == "cached":
        store.sequences.more["reference"] = np.zeros(len(store.tokens), np.float32)


def compute(parts, params, store, *, workdir: pathlib.Path, identity: Callable, progress) -> None:
    """Fill a cached reference into the data, from the disk or by the starting weights.

    identity: `() -> dict` of the base; it hashes the weights, and is asked where that is needed.
    """
    if parts.reference.name != "cached":
        return
    folder = pathlib.Path(parts.reference.folder or Artifacts(workdir).reference)
    path = folder / f"{fingerprint(parts, store, identity())}.npy"
    # The first decides for all, since computing takes all of them.
    if processes.on_first(lambda: path.is_file() and _is_whole(path)):
        found = np.load(path)
    else:
        found = _logps(parts, params, store.sequences, progress)
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            # np.save appends .npy to names that end otherwise.
            draft = path.with_suffix(".part.npy")
            np.save(draft, found)
            draft.replace(path)
            # After the rename: killed in between, a file has no digest and is computed again.
            digest.sign(path)
            sys.stderr.write(f"reference: wrote {path}\n")
    store.sequences.more["reference"] = found


def _is_whole(path: pathlib.Path) -> bool:
    """Return whether a file is as it was written; a damaged one is set aside."""
    if problem := digest.file_problem(path):
        aside = digest.quarantine(path, reason="digest")
        warnings.warn(
            f"{path}: got {problem}; it is renamed to {aside.name} and computed again",
            RuntimeWarning,
            stacklevel=3,
        )
    return not problem


def fingerprint(parts, store, identity: Mapping) -> str:
    """Hash what the log-probabilities depend on: base, adapters, types and data."""
    s = parts.settings
    what = [identity, s.adapter, s.adapter_from, s.seed.adapter, s.model, store.digest()]
    if s.adapter_from:
        # By content: new adapters may lie under the path of older ones.
        given = bases.adapter(s.adapter_from) / "adapter_model.safetensors"
        what.append(hashlib.sha256(given.read_bytes()).hexdigest())
    # 96 bits: a name that fits a listing, and no two runs in a folder share it.
    return hashlib.sha256(repr(what).encode()).hexdigest()[:24]


def _logps(parts, params, sequences, progress) -> np.ndarray:
    """Compute log p of every token of a store as a target; 0 for the first of a sequence."""
    settings, mesh = parts.settings, parts.mesh
    run = jax.jit(
        lambda params, batch: scoring.target_logps(
            parts.model, params, batch, chunk=settings.model.chunk
        ),
        # Replicated: every process fills its own copy of the data.
        out_shardings=meshes.replicated(mesh),
        # As the step is: in bfloat16 DPO's first loss would otherwise not be log 2.
        compiler_options=rounding.compiler_options(parts.model.dtype),
    )
    found, done = np.zeros(len(sequences.tokens), np.float32), 0
    # Virtual tokens take places too.
    most = parts.model.max_length(params["adapters"])
    for index, batch in scoring.batches(sequences, batch_size=settings.batch_size, max_length=most):
        with jax.set_mesh(mesh):
            logps = np.asarray(run(params, scoring.place(batch, mesh)))
        # The last batch is filled up with rows that are nobody's.
        for i, row in zip(index, logps, strict=False):
            start, count = sequences.offsets[i], sequences.lengths[i]
            found[start + 1 : start + count] = row[: max(count - 1, 0)]
        done += len(index)
        progress(done, len(sequences))
    return found
