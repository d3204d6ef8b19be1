"""What a run is before it starts: all is checked, no device is touched; then arrays and step.

p = plan(settings)                      # abstract state and frozen arrays, data, evaluations
first, frozen = weights(p, workdir)
step = compiled_step(p)
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ftjax.core import config as conf
from ftjax.core import mesh as meshes
from ftjax.data import loader as loaders
from ftjax.objectives.losses import spec as specs
from ftjax.optim import optimizer as chain
from ftjax.run import adapter_init, lengths, penalty, reference, saved_state
from ftjax.run import build as setup
from ftjax.run import evaluation as evaluating
from ftjax.run import objective as objectives
from ftjax.run.config import Settings
from ftjax.train import compile as compiling
from ftjax.train import state as states
from ftjax.train.step import make_step

LONGEST = 2**30  # steps, for a look at what does not depend on them


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything about a run that is known before a device is touched."""

    settings: Settings
    parts: setup.Parts
    loader: loaders.Loader
    evaluation: evaluating.Evaluation
    optimizer: chain.Optimizer
    objective: Any
    penalties: Mapping[str, penalty.Prepared]
    state: states.State  # abstract, with shardings
    frozen: Any  # abstract, with shardings
    length: lengths.Length


def plan(settings: Settings, *, progress=None, load: Callable | None = None, mesh=None) -> Plan:
    """Resolve and check settings; `progress(rows done, rows)` is called while data is encoded.

    load: `(parts, progress) -> loader`, where batches are not encoded rows.
    mesh: in place of the settings', as for `setup.build`.

    Raises:
      ValueError: anything wrong with them, or with the data that they name.
    """
    parts = setup.build(settings, mesh=mesh)
    setup.check_weights(parts)
    meshes.check_batch(settings.batch_size, settings.accumulate, parts.mesh)
    if settings.compile == "pmap":
        compiling.check_pmap(parts.mesh)
    objectives.check_cut(settings, devices=parts.mesh.size)
    if load is None:
        objectives.check_offline(settings)
    objective = objectives.make(settings)
    penalties = penalty.build(parts)
    # The steps of so many epochs are known once the data are; what is wrong shows before.
    optimizer = _optimizer(settings, settings.steps or LONGEST)
    trainable, frozen = states.split(parts.abstract, parts.patterns)
    if penalties:
        frozen |= {"penalties": penalty.abstract(penalties, parts)}
    reference.check(parts.reference.name, parts.objective, trainable)
    state = saved_state.abstract_state(parts, trainable, optimizer.tx)
    loaders.check_types(settings.data, where="data")
    _check_length(settings.data, parts.model)
    evaluating.check(settings.evals)
    evaluating.check_best(settings)
    # The evaluations first: the data of training takes the longest to encode.
    evaluation = evaluating.build(parts)
    loader = (load or _load)(parts, progress)
    length = lengths.of(settings, loader)
    if length.total != settings.steps:
        optimizer = _optimizer(settings, length.total)
    return Plan(
        settings, parts, loader, evaluation, optimizer, objective, penalties, state, frozen, length
    )


def _optimizer(settings: Settings, steps: int) -> chain.Optimizer:
    return conf.call(chain.make, settings.optim, where="optim", extra={"total_steps": steps})


def _check_length(data: dict, model) -> None:
    if data.get("max_tokens", 0) > model.config.max_positions:
        raise ValueError(
            f"data.max_tokens: got {data['max_tokens']}; expected at most "
            f"{model.config.max_positions}, the positions that the model knows"
        )


def _check_kind(kind: str, objective) -> None:
    wanted = specs.of(objective).data
    if wanted in specs.SAMPLED:
        raise ValueError(
            f"objective.name: got {objective.__name__}, which learns from samples that it takes "
            "itself; expected one that learns from data; run experiments.online, or change it"
        )
    if kind != wanted:
        raise ValueError(
            f"data.kind: got data of kind {kind!r} for {objective.__name__}; expected "
            f"{'text, prompt or chat' if wanted == 'tokens' else repr(wanted)}; change one of them"
        )


def _load(parts: setup.Parts, progress) -> loaders.Loader:
    loader = _loader(parts, progress)
    _check_kind(loader.data.store.kind, parts.objective)
    reference.reserve(parts.reference, loader.data.store)
    return loader


def _loader(parts: setup.Parts, progress) -> loaders.Loader:
    s = parts.settings
    given = dict(
        tokenizer=parts.tokenizer, batch_size=s.batch_size, seed=s.seed.data, progress=progress,
        local_rows=meshes.local_rows(s.batch_size, parts.mesh),
    )  # fmt: skip
    return open_data(s.data, where="data", **given)


def open_data(data: dict, *, where: str, **given) -> loaders.Loader:
    """Open a data section; `given` are the keywords that the program sets itself."""
    if clash := sorted(data.keys() & given.keys()):
        raise ValueError(f"{where}.{clash[0]}: got a value; expected none, another key sets it")
    return loaders.make(**data, **given)


def compiled_step(p: Plan):
    """Make the training step of a plan, jitted (or pmapped) for its mesh."""
    s = p.settings
    penalties = {label: own.penalty.value for label, own in p.penalties.items()}
    step = functools.partial(
        make_step, p.parts.model, p.objective, p.optimizer.tx, penalties=penalties,
        learning_rate=p.optimizer.learning_rate, accumulate=s.accumulate, chunk=s.model.chunk,
        ema_decay=s.ema_decay, reference=p.parts.reference.function,
    )  # fmt: skip
    if s.compile == "pmap":
        return compiling.pmap(step, mesh=p.parts.mesh)
    options = dict(state=saved_state.shardings_of(p.state), dtype=p.parts.model.dtype)
    return compiling.jit(step(), mesh=p.parts.mesh, **options)


def arrays(p: Plan, workdir: pathlib.Path | None = None) -> tuple[states.State, Any]:
    """Make the first state and the frozen arrays on the mesh; see `weights` for `workdir`."""
    first, frozen = weights(p, workdir)
    return begin(p, first), frozen


def weights(p: Plan, workdir: pathlib.Path | None = None) -> tuple[states.State, Any]:
    """Read or draw what a run starts from: a state of parameters alone, and the frozen arrays.

    workdir: keeps what adapters start from of data; without it such adapters change nothing.
    """
    find = functools.partial(adapter_init.find, p.parts, p.objective, p.loader, workdir=workdir)
    params = setup.weights(p.parts, find if workdir else None)
    trainable, frozen = states.split(params, p.parts.patterns)
    if p.penalties:
        frozen |= {"penalties": penalty.arrays(p.penalties, p.parts, params)}
    return states.State(None, trainable, None, None, None), frozen


def begin(p: Plan, first: states.State) -> states.State:
    """Make the state before the first step; the parameters of `first` become its own (donated)."""
    create = functools.partial(saved_state.create, p.settings, p.optimizer.tx)
    # Compiled, because the moments must lie where their parameters lie.
    places = saved_state.shardings_of(p.state)
    return jax.jit(create, out_shardings=places, donate_argnums=0)(first.params)


class Batches:
    """A loader whose batches go to the mesh; knows where it is, as the loader does."""

    def __init__(self, loader: loaders.Loader, mesh):
        self._loader, self._mesh = loader, mesh

    def __iter__(self):
        return self

    def __next__(self):
        rows = self._loader.batch_size
        return meshes.put_local(next(self._loader), self._mesh, rows=rows)

    def state(self) -> dict:
        """Return the loader's position."""
        return self._loader.state()

    def restore(self, position: dict) -> None:
        """Go to a position."""
        self._loader.restore(position)
