"""The parts of members: plans, weights and data of each, of which most are one for all."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ftjax.core import config as conf
from ftjax.core import files, processes
from ftjax.run import finish, inputs, member_arrays, reference, saved_state, session
from ftjax.run import plan as plans
from ftjax.run.artifacts import Artifacts
from ftjax.run.config import Settings
from ftjax.run.member_settings import Listed
from ftjax.run.shared import Shared
from ftjax.train import member_loop, visits
from ftjax.train import members as members_lib
from ftjax.train.checkpoint import Restored
from ftjax.train.early_stop import EarlyStop
from ftjax.train.halving import Halving, Seen


def plan(chosen: Mapping[str, Settings], *, progress=None) -> dict[str, plans.Plan]:
    """Plan every member; data, tokenizer, evaluations and the base are read once.

    Raises:
      ValueError: anything wrong with one, naming it.
    """
    # All have the same base, which `check` has seen to.
    shared = Shared(base=next(iter(chosen.values())).model.base)
    return {name: plans.plan(own, progress=progress, shared=shared) for name, own in chosen.items()}


def early_stops(listed: Listed, found: Mapping[str, plans.Plan]) -> dict[str, EarlyStop]:
    """Make what stops each member; nothing where members() does not ask for it.

    Raises:
      ValueError: no evaluation measures the metric.
    """
    if listed.stop is None:
        return {}
    where = "members(): stop"
    stops = {name: conf.call(EarlyStop, listed.stop, where=where) for name in found}
    _check_metric(next(iter(stops.values())).metric, found, where=where)
    return stops


def halving(listed: Listed, found: Mapping[str, plans.Plan]) -> Halving | None:
    """Make what ends the worse members; None where members() does not ask for it.

    Raises:
      ValueError: no evaluation measures the metric, or none at one of its steps.
    """
    if listed.halving is None:
        return None
    where, p = "members(): halving", next(iter(found.values()))
    made = conf.call(Halving, listed.halving, where=where)
    _check_metric(made.metric, found, where=where)
    every = p.settings.eval_every_steps
    if wrong := [rung for rung in made.rungs if rung % every or rung >= p.length.steps]:
        raise ValueError(
            f"{where}.rungs: got {wrong}; expected multiples of eval_every_steps {every} before "
            f"the last of {p.length.steps} steps; change one of them"
        )
    return made


def _check_metric(metric: str, found: Mapping[str, plans.Plan], *, where: str) -> None:
    settings = next(iter(found.values())).settings
    labels = [f"eval/{label}/" for label in settings.evals]
    if not metric.startswith(tuple(labels)) or not settings.eval_every_steps:
        raise ValueError(
            f"{where}: got metric {metric!r} with eval_every_steps {settings.eval_every_steps}; "
            f"expected a metric of {conf.listed(labels)} that is measured while training; set both"
        )


def weights(
    found: Mapping[str, plans.Plan], root: pathlib.Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read or draw what each member starts from: its parameters, and its frozen arrays.

    The base, a teacher and their like are the first member's arrays in all of them.
    """
    firsts, frozen, base = {}, {}, None
    for name, p in found.items():
        firsts[name], own = plans.weights(p, root / name)
        base = own if base is None else base
        # In place of its own: a quantised base, say, is read anew for each.
        frozen[name] = members_lib.share(base, own, of=member_arrays.OWN)
        reference.compute(
            p.parts, saved_state.params_of(firsts[name], frozen[name]), p.loader.data.store,
            workdir=root / name, identity=lambda p=p: saved_state.identity(p.parts),
            progress=finish.progress("reference"),
        )  # fmt: skip
    return firsts, frozen


def batches(found: Mapping[str, plans.Plan]) -> member_arrays.Batches:
    """Make the batches of all members."""
    each = [inputs.Batches(p.loader, p.parts.mesh, anchors=p.anchor_loaders)
            for p in found.values()]  # fmt: skip
    seeds = [p.settings.seed.data for p in found.values()]
    return member_arrays.Batches(each, seeds, next(iter(found.values())).parts.mesh)


def begin(
    whole: member_arrays.Arrays, found: Mapping[str, plans.Plan], firsts: Mapping[str, Any],
    resumed: tuple[int, dict[str, Restored]] | None, *, stops: Mapping[str, EarlyStop],
    seen: Mapping[str, Seen], opened: Sequence[str],
) -> tuple[members_lib.Members, dict[str, dict]]:  # fmt: skip
    """Make the state to train from, and the progress of each member that goes on.

    opened: the members that still train. Of one that has ended the state is that of its start,
    which nobody reads.
    """
    alive = [name in opened for name in found]
    if resumed is None:
        state = whole.start(list(firsts.values()))
        return state._replace(alive=state.alive & whole.mark(alive)), {}
    step, restored = resumed
    for key, watched in (("early", stops), ("seen", seen)):
        for name in watched.keys() & restored.keys():
            watched[name].restore(restored[name].data[key])
    each = [
        restored[name].state if name in restored else plans.begin(p, firsts[name])
        for name, p in found.items()
    ]
    progress = {name: own.data["progress"] for name, own in restored.items()}
    return whole.join(each, step=step, alive=alive), progress


def members(
    whole: member_arrays.Arrays, found: Mapping[str, plans.Plan], frozen: Mapping[str, Any],
    kept: Mapping[str, session.Records], *, progress: Mapping[str, dict],
    stops: Mapping[str, EarlyStop], seen: Mapping[str, Seen],
) -> list[member_loop.Member]:  # fmt: skip
    """Say of each member what the loop needs to know."""
    result, at_start = [], {}
    for index, (name, p) in enumerate(found.items()):
        own = kept.get(name)
        more = {} if own is None else dict(
            every=(_evaluations(p, own.artifacts, at_start),), writers=own.writers,
            checkpoints=own.checkpoints,
        )  # fmt: skip
        result.append(member_loop.Member(
            name, whole.own(index), frozen[name], progress=progress.get(name),
            early=stops.get(name), seen=seen.get(name), ended=own is None, **more,
        ))  # fmt: skip
    return result


def _evaluations(p: plans.Plan, own: Artifacts, at_start: dict[tuple, tuple]) -> visits.Hook:
    """Make the hook that evaluates a member; what starts as the base does so once for all.

    at_start: metrics and files of those evaluations, kept for the members that follow.
    """
    hook = session.evaluations(p, own.workdir)

    def evaluate(now: visits.StepInfo) -> dict:
        if now.step or not p.parts.starts_as_base:
            return hook.call(now)
        # By what evaluates: of the same evaluators and the same base the scores are the same, and
        # of the same seed the samples.
        same = id(p.evaluation), p.settings.seed.sampling
        if same not in at_start:
            at_start[same] = hook.call(now), own
        numbers, first = at_start[same]
        if first is not own and processes.is_first():
            of_step = lambda files_of: [
                files_of.scores(0), files_of.sample(0),
                *(files_of.answers(label, 0) for label in p.evaluation.evaluators),
            ]  # fmt: skip
            for kept, copy in zip(of_step(first), of_step(own), strict=True):
                if kept.is_file():  # answers are of evaluators alone that let the model write
                    files.write_bytes(copy, kept.read_bytes())
        return numbers

    return hook._replace(call=evaluate)
