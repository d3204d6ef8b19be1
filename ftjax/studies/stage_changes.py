"""How far the model of every stage is from the study's base: drift on its texts, and spectra.

    measure = Changes(study, folder, shared=shared)
    measure.base()                  # the base against itself: zeros
    measure(stage)                  # writes <stage>/changes.json, unless that is there

    {"drift": {evaluation: {"kl_forward": ..., "kl_reverse": ..., "tv": ..., ...}},
     "spectrum": {"rank": ..., "effective_rank": ..., "relative_norm": ..., "intruders": ...,
                  "matrices": ..., "threshold": ..., "energy": {"1": ..., "2": ..., ...}},
     "path": {"0": {evaluation: nll}, "0.25": ..., "1": ...},
     "states": {evaluation: {"cka": ..., "procrustes": ...}}}

`path`, of first stages alone, is what lies between the base and the model: (1 - a) base + a model.

Compared are the weights, adapters merged, with those that the first stage of every cell starts
from, whatever the carry. Drift is that of `evals.drift` over the rows of the study's `nll`
evaluations; ranks and norms are means over the linear maps, intruders their sum; `energy` is the
part of the change that its k largest singular values hold; `states` compares the final hidden
states of the same rows. See `evals.lib.spectrum`.
"""

import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from ftjax.core import blas, files, processes
from ftjax.evals.lib import spectrum, token_states
from ftjax.run import build, editing, evaluation, reader
from ftjax.run import config as settings_lib
from ftjax.run.shared import Shared
from ftjax.studies import outcomes, stages
from ftjax.studies.study import DRIFT, PATH, SPECTRUM, STATES, Study
from ftjax.train import edits

TOP = 10  # singular vectors that may be intruders, and the threshold: arXiv:2410.21228
THRESHOLD = 0.5
AMOUNTS = (0, 0.25, 0.5, 0.75, 0.9, 1)  # of the way from the base
ALIKE = dict(cka=spectrum.cka, procrustes=spectrum.procrustes)
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # at which the energy of a change is shown


class Changes:
    """The measures of a study's stages that `study.changes` names; the base is read once."""

    def __init__(self, study: Study, folder: pathlib.Path, *, shared: Shared):
        self._study, self._folder, self._shared = study, folder, shared
        self._parts = self._base = None
        self._weights = Weights()
        self._known = {}  # losses and states of the base, which every stage is compared with

    def __call__(self, stage: stages.Stage) -> None:
        """Measure a stage that has ended with a result, unless that was done."""
        outcome = stage.outcome()
        if not self._is_wanted(stage.changes) or outcome.diverged:
            return
        self._prepare()
        run = reader.load(stage.workdir, checkpoint=str(outcome.step), mesh=self._parts.mesh)
        tuned = editing.dense(run.parts, run.params)
        self._write(stage.changes, tuned, is_first=stage.number == 1)

    def base(self) -> None:
        """Measure the base against itself, into DIR/none, unless that was done."""
        path = of_base(self._folder)
        if self._is_wanted(path):
            self._prepare()
            self._write(path, self._base, is_first=False)

    def _is_wanted(self, path: pathlib.Path) -> bool:
        return bool(self._study.changes) and not processes.on_first(path.is_file)

    def _write(self, path: pathlib.Path, tuned: Mapping, *, is_first: bool) -> None:
        found = {}
        if DRIFT in self._study.changes:
            found["drift"] = self._of_texts(tuned)
        if SPECTRUM in self._study.changes:
            found["spectrum"] = self._weights(self._layers(tuned))
        if PATH in self._study.changes and is_first:
            found["path"] = {f"{a:g}": self._on_the_way(tuned, a) for a in AMOUNTS}
        if STATES in self._study.changes:
            found["states"] = self._of_states(tuned)
        processes.on_first(lambda: bool(files.write_json(path, found)))

    def _prepare(self) -> None:
        if self._parts is not None:
            return
        first = stages.stages(self._study, stages.cells(self._study)[0], self._folder)[0]
        plain, scored = _alone(first.settings), _scored(self._study)
        drifts = {label: dict(spec, name="drift") for label, spec in scored.items()}
        reference = dict(name="frozen" if drifts else "adapters_off")
        make = lambda own: build.build(settings_lib.read(own), shared=self._shared)
        self._parts = make(plain | dict(evals=scored))
        loaded = build.weights(self._parts, shared=self._shared) | {"adapters": None}
        self._base = editing.dense(self._parts, loaded)
        self._losses = evaluation.build(self._parts).evaluators
        held = make(plain | dict(evals=drifts, reference=reference))
        self._drifts = evaluation.build(held).evaluators
        self._examples = {label: evaluation.examples(held, label) for label in scored}
        self._states = token_states.make(
            self._parts.model, batch_size=evaluation.batch_size(self._parts), mesh=self._parts.mesh
        )

    def _of_texts(self, tuned: Mapping) -> dict[str, dict[str, float]]:
        kept = {"model": self._base, "adapters": None}
        params = {"model": tuned, "adapters": None, "reference": kept}
        return {label: one.summary(one.examples(params)) for label, one in self._drifts.items()}

    def _of_states(self, tuned: Mapping) -> dict[str, dict[str, float]]:
        own = {}
        for label, examples in self._examples.items():
            states = lambda weights, own=examples: self._states(_params(weights), own)
            if (STATES, label) not in self._known:
                self._known[STATES, label] = states(self._base)
            before, after = self._known[STATES, label], states(tuned)
            own[label] = {name: measure(before, after) for name, measure in ALIKE.items()}
        return own

    def _on_the_way(self, tuned: Mapping, amount: float) -> dict[str, float]:
        weights = edits.interpolate(self._base, tuned, amount)
        losses = lambda: {k: one(_params(weights))["nll"] for k, one in self._losses.items()}
        if amount:
            return losses()
        if PATH not in self._known:
            self._known[PATH] = losses()
        return self._known[PATH]

    def _layers(self, tuned: Mapping) -> Iterable[spectrum.Layer]:
        return spectrum.layers(self._base, tuned, self._parts.model.linears)


def _params(weights: Mapping) -> dict:
    return {"model": weights, "adapters": None}


def of_base(folder: pathlib.Path) -> pathlib.Path:
    """Return the file of the base against itself."""
    return folder / outcomes.NONE / "changes.json"  # as `outcomes` reads it


def _alone(first: settings_lib.Settings) -> dict:
    """Return the settings of the base: a model without adapters that learns nothing else."""
    plain = first.plain | dict(
        adapter=dict(name="", where="blocks/**"), trainable=(), objective=dict(name="sft"),
        anchors={}, penalties={},
    )  # fmt: skip
    return {key: plain[key] for key in plain if key not in ("rollout", "rewards", "advantages")}


def _scored(study: Study) -> dict[str, dict]:
    """Return the evaluations of losses, which have the texts that models are compared on."""
    kept = ("name", "data", "rows")
    return {
        label: {key: spec[key] for key in kept if key in spec}
        for label, spec in study.evals.items()
        if spec["name"] == "nll"
    }


class Weights:
    """What is the same of the base's linear maps in all comparisons: their singular vectors."""

    def __init__(self):
        self._known = {}

    def __call__(self, layers: Iterable[spectrum.Layer]) -> dict:
        """Describe the change of all linear maps of a model together."""
        rows = [self._describe(layer) for layer in layers]
        rank, effective, norm, intruders, thresholds, energy = zip(*rows, strict=True)
        return {
            "rank": float(np.mean(rank)), "effective_rank": float(np.mean(effective)),
            "relative_norm": float(np.mean(norm)), "intruders": sum(intruders),
            "matrices": len(rows), "threshold": max(thresholds),
            "energy": dict(zip(map(str, RANKS), np.mean(energy, 0).tolist(), strict=True)),
        }  # fmt: skip

    def _describe(self, layer: spectrum.Layer) -> tuple:
        place, shape = (layer.path, layer.index), layer.before.shape
        if place not in self._known:
            self._known[place] = spectrum.vectors(layer.before, side="output")
        null = spectrum.null_level(shape[1], min(shape))
        # A small matrix has vectors that chance alone makes alike.
        threshold = max(THRESHOLD, spectrum.MARGIN * null)
        options = dict(top=TOP, threshold=threshold, null=null, known=self._known[place])
        # So few numbers that every vector would be one: such a matrix is left out.
        count = 0
        if threshold < 1:
            count = len(spectrum.intruders(layer.before, layer.after, **options).ranks)
        values = blas.svd(layer.after - layer.before, compute_uv=False)
        held = spectrum.energy_of(values)
        return (
            spectrum.rank_of(values), spectrum.effective_rank_of(values),
            spectrum.relative_norm(layer.before, layer.after), count, min(threshold, 1.0),
            [float(held[min(k, len(held)) - 1]) for k in RANKS],
        )  # fmt: skip
