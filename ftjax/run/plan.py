"""What a run is before it starts: all is checked, no device is touched; then arrays and step.

p = program(settings, mesh=mesh)        # abstract state and frozen arrays; reads no data
p = plan(settings)                      # the same, with data and evaluations
step = compiled_step(p)                 # of either
first, frozen = weights(p, workdir)     # of a plan
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ftjax.core import config as conf
from ftjax.core import mesh as meshes
from ftjax.core import phases, tree
from ftjax.data import loader as loaders
from ftjax.optim import galore, stacks
from ftjax.optim import optimizer as chain
from ftjax.penalties.lib import path_integral
from ftjax.report import tracking
from ftjax.run import (
    adapter_init,
    anchors,
    hyper,
    inputs,
    lengths,
    penalty,
    reference,
    row_parts,
    saved_state,
)
from ftjax.run import build as setup
from ftjax.run import evaluation as evaluating
from ftjax.run import objective as objectives
from ftjax.run.config import Settings
from ftjax.run.shared import Shared
from ftjax.train import compile as compiling
from ftjax.train import reference_policy
from ftjax.train import state as states
from ftjax.train.step import make_step

LONGEST = 2**30  # steps, for a look at what does not depend on them


@dataclasses.dataclass(frozen=True)
class Program:
    """What a run computes, known from its settings and a mesh alone: enough to compile the step."""

    settings: Settings
    parts: setup.Parts
    optimizer: chain.Optimizer
    objective: Any
    hyper: hyper.Hyper  # numbers that are arguments of the step
    steps: int  # those of the learning rate's schedule
    penalties: Mapping[str, penalty.Prepared]
    anchors: Mapping[str, anchors.Anchor]
    state: states.State  # abstract, with shardings
    frozen: Any  # abstract, with shardings
    shared: Shared | None  # keeps what other runs of the process may use


@dataclasses.dataclass(frozen=True)
class Plan(Program):
    """Everything about a run that is known before a device is touched."""

    loader: loaders.Loader
    anchor_loaders: Mapping[str, loaders.Loader]
    evaluation: evaluating.Evaluation
    length: lengths.Length


def program(settings: Settings, *, mesh=None, shared: Shared | None = None) -> Program:
    """Resolve and check what a run computes; reads no data, and of weights the headers alone.

    mesh: in place of the settings', of devices that need not be here, as for `setup.build`. A
      length in `epochs` is not known without data: the learning rate's schedule is then of another.

    Raises:
      ValueError: anything wrong with the settings.
    """
    tracking.check(settings.tracker)
    parts = setup.build(settings, mesh=mesh, shared=shared)
    setup.check_weights(parts)
    objectives.check_cut(settings, devices=parts.mesh.size)
    meshes.check_batch(settings.batch_size, settings.accumulate, parts.mesh)
    if settings.compile == "pmap":
        compiling.check_pmap(parts.mesh)
    objective = objectives.make(settings)
    penalties, anchored = penalty.build(parts), anchors.read(settings)
    anchors.check(anchored, parts)
    row_parts.check(parts, anchored)
    # The steps of so many epochs are known once the data are; what is wrong shows before.
    steps = settings.steps or LONGEST
    optimizer = _optimizer(settings, steps, parts.model.linears)
    trainable, frozen = states.split(parts.abstract, parts.patterns)
    _check_layers(settings, trainable, parts.model.linears)
    if penalties:
        frozen |= {"penalties": penalty.abstract(penalties, parts)}
    kept = dict(anchored=anchors.compare(settings), averages=settings.ema_decay is not None)
    reference.check(parts.reference.name, parts.objective, trainable, **kept)
    integral = penalty.integral(penalties, parts)
    state = saved_state.abstract_state(parts, trainable, optimizer.tx, integral=integral)
    loaders.check_types(settings.data, where="data")
    _check_length(settings.data, parts.model.max_length(parts.abstract["adapters"]))
    numbers = hyper.of(settings)
    return Program(
        settings, parts, optimizer, objective, numbers, steps, penalties, anchored, state, frozen,
        shared,
    )  # fmt: skip


def plan(
    settings: Settings, *, progress=None, load: Callable | None = None, mesh=None,
    shared: Shared | None = None,
) -> Plan:  # fmt: skip
    """Resolve and check settings; `progress(rows done, rows)` is called while data is encoded.

    load: `(parts, progress) -> loader`, where batches are not encoded rows.
    mesh: in place of the settings', as for `setup.build`.
    shared: what other runs of this process have built, and where this one leaves its own.

    Raises:
      ValueError: anything wrong with them, or with the data that they name.
    """
    found = program(settings, mesh=mesh, shared=shared)
    if load is None:
        objectives.check_offline(settings)
    evaluating.check(settings.evals)
    evaluating.check_best(settings)
    # The evaluations first: the data of training takes the longest to encode.
    build = evaluating.build
    evaluation = shared.evaluation(found.parts, build) if shared else build(found.parts)
    load = load or functools.partial(inputs.load, eval_texts=evaluation.texts, shared=shared)
    loader = load(found.parts, progress)
    beside = anchors.load(found.anchors, found.parts, shared=shared)
    length = lengths.of(settings, loader)
    if length.total != settings.steps:
        optimizer = _optimizer(settings, length.total, found.parts.model.linears)
        known = dict(optimizer=optimizer, steps=length.total)
        found = dataclasses.replace(found, **known)
    if shared is None:
        evaluation = dataclasses.replace(evaluation, texts={})  # which nobody needs any more
    own = dict(loader=loader, anchor_loaders=beside, evaluation=evaluation, length=length)
    return Plan(**vars(found), **own)


def _optimizer(settings: Settings, steps: int, linears: Mapping) -> chain.Optimizer:
    _, projected = anchors.by_use(anchors.read(settings))
    extra = {
        "total_steps": steps,
        "projected": {label: own.weight for label, own in projected.items()},
        "views": {
            f"model/{path}": galore.View(own.equation, own.stack is not None)
            for path, own in linears.items()
        },
        "depths": _depths(linears),
    }
    return conf.call(chain.make, settings.optim, where="optim", extra=extra)


def _depths(linears: Mapping) -> stacks.Depths:
    return {path.split("/")[0]: own.layers for path, own in linears.items() if own.layers}


def _keeper(settings: Settings, linears: Mapping) -> Callable:
    chosen = frozenset(settings.trainable_layers)
    return stacks.keeper(chosen, _depths(linears), where="trainable_layers")


def _check_layers(settings: Settings, trainable, linears: Mapping) -> None:
    """Check that `trainable_layers` names layers of something that trains.

    Raises:
      ValueError: it does not.
    """
    if not settings.trainable_layers:
        return
    depths = _depths(linears)
    stacks.check(set(settings.trainable_layers), depths, where="trainable_layers")
    if not any(stacks.layers_of(path, depths) for path in tree.paths(trainable)):
        raise ValueError(
            f"trainable_layers: got {tuple(settings.trainable_layers)}, and nothing in a stack of "
            "layers trains; expected none; drop it, or change trainable"
        )
    jax.eval_shape(_keeper(settings, linears), trainable)


def _check_length(data: dict, most: int) -> None:
    if data.get("max_tokens", 0) > most:
        raise ValueError(
            f"data.max_tokens: got {data['max_tokens']}; expected at most {most}, the positions "
            "that the model knows less those of virtual tokens"
        )


def compiled_step(p: Program):
    """Make the training step `(state, hyper, frozen, batch)`, jitted (or pmapped) for its mesh.

    That of a plan may be shared with other runs of the process.

    Raises:
      ValueError: the mesh spreads members, and this is one run.
    """
    if p.shared and isinstance(p, Plan):
        return p.shared.step(p, _compiled_step)
    return _compiled_step(p)


def _compiled_step(p: Program):
    if (parts := p.parts.mesh.shape[meshes.MEMBER]) > 1:
        raise ValueError(
            f"mesh.{meshes.MEMBER}: got {parts} for one run; expected 1: it spreads those that "
            "members() of a config lists; use data or fsdp"
        )
    make = functools.partial(step_of, p)
    if p.settings.compile == "pmap":
        return compiling.pmap(make, mesh=p.parts.mesh)
    options = dict(state=saved_state.shardings_of(p.state), dtype=p.parts.model.dtype)
    return compiling.jit(make(), mesh=p.parts.mesh, **options)


def step_of(p: Program, **options) -> Callable:
    """Make the step of a run, whose numbers are an argument; `options` go to `make_step`."""
    penalties = {label: own.penalty.value for label, own in p.penalties.items()}
    terms, projected = (
        {label: (own.term, own.weight) for label, own in each.items()}
        for each in anchors.by_use(p.anchors)
    )

    def step(state, numbers, frozen, batch):
        # Built while it is traced: where the numbers are not known, so that all share one program.
        s = hyper.put(p.settings, numbers)
        optimizer = _optimizer(s, p.steps, p.parts.model.linears)
        made = make_step(
            p.parts.model, objectives.make(s), optimizer.tx, penalties=penalties, anchors=terms,
            projected=projected, learning_rate=optimizer.learning_rate, accumulate=s.accumulate,
            chunk=s.model.chunk, ema_decay=s.ema_decay, reference=_reference(p),
            follows=p.parts.reference.follows,
            integrate=path_integral.make(p.parts.model.linears),
            keep=_keeper(s, p.parts.model.linears), **options,
        )  # fmt: skip
        return made(state, frozen, batch)

    return step


def _reference(p: Program) -> Callable:
    """Return what the step compares with: the run's reference, which may see more in prompts."""
    r, found = p.settings.rollout, p.parts.reference.function
    return reference_policy.shown(found) if r is not None and r.demo else found


def arrays(p: Plan, workdir: pathlib.Path | None = None) -> tuple[states.State, Any]:
    """Make the first state and the frozen arrays on the mesh; see `weights` for `workdir`."""
    first, frozen = weights(p, workdir)
    return begin(p, first), frozen


def weights(p: Plan, workdir: pathlib.Path | None = None) -> tuple[states.State, Any]:
    """Read or draw what a run starts from: a state of parameters alone, and the frozen arrays.

    workdir: keeps what adapters start from of data; without it such adapters change nothing.
    """
    find = functools.partial(adapter_init.find, p.parts, p.objective, p.loader, workdir=workdir)
    with phases.named("loading weights"):
        params = setup.weights(p.parts, find if workdir else None, shared=p.shared)
    trainable, frozen = states.split(params, p.parts.patterns)
    if p.penalties:
        frozen |= {"penalties": penalty.arrays(p.penalties, p.parts, params)}
    return states.State(None, trainable, None, None, None), frozen


def begin(p: Plan, first: states.State) -> states.State:
    """Make the state before the first step; the parameters of `first` become its own (donated)."""
    create = p.shared.first_state(p, _first_state) if p.shared else _first_state(p)
    # As numbers: a key is of one device, and compiling it in would be a program for every seed.
    key = np.asarray(jax.random.key_data(saved_state.key_of(p.settings)))
    return create(first.params, meshes.put(key, meshes.replicated(p.parts.mesh)))


def _first_state(p: Plan) -> Callable:
    """Make `(parameters, numbers of the key) -> the state before the first step`, jitted."""
    own = dict(ema=p.settings.ema_decay is not None, integral=p.state.integral)

    def create(params, numbers):
        key = jax.random.wrap_key_data(numbers)
        return states.create(params, p.optimizer.tx, key=key, **own)

    # Compiled, because the moments must lie where their parameters lie.
    return jax.jit(create, out_shardings=saved_state.shardings_of(p.state), donate_argnums=0)
