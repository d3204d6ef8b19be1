"""The answers of a round: the policy's own and, where an objective has them duel, its rival's.

    draw = make(parts, base)
    output = draw(params, prompts_QT, lengths_Q, number)      a prompt's rows together, own first

The rival is the objective's reference (`SPEC.rival` = 1.0) or the geometric mixture of policy and
reference in which the reference has that share; `rollout.mixture` sets another one.
"""

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import mesh as meshes
from ftjax.core import rng
from ftjax.objectives.losses import spec as specs
from ftjax.run import prompting
from ftjax.run.config import Rollout
from ftjax.sampling import generation, geometric_mixture
from ftjax.train import state as states
from ftjax.train.policy import Policy


def share_of(rollout: Rollout, objective: ModuleType) -> float | None:
    """Return the reference's share in the rival; None where answers have no rival.

    Raises:
      ValueError: a share for an objective without a rival, or one that is none.
    """
    spec = specs.of(objective)
    own, given = spec.rival if spec.batch.has_rival else None, rollout.mixture
    if given is None:
        return own
    if own is None or not 0 < given <= 1:
        raise ValueError(
            f"rollout.mixture: got {given} for {objective.__name__}; expected none, or a share "
            "above 0 and up to 1 for an objective whose answers have a rival, as xpo and nash_md"
        )
    return given


def own_samples(rollout: Rollout, objective: ModuleType) -> int:
    """Return how many of a prompt's samples are the policy's own.

    Raises:
      ValueError: half of them should be, and their number is odd.
    """
    if share_of(rollout, objective) is None:
        return rollout.samples
    if rollout.samples % 2:
        raise ValueError(
            f"rollout.samples: got {rollout.samples} for {objective.__name__}; expected an even "
            "number, one half the policy's own and one half its rival's"
        )
    return rollout.samples // 2


def make(parts, base: Policy) -> Callable:
    """Make `draw(params, prompts_QT, lengths_Q, number) -> Output` of host arrays, [Q * samples].

    base: what the run is compared with.
    """
    r, objective, mesh = parts.settings.rollout, parts.objective, parts.mesh
    share, own = share_of(r, objective), own_samples(r, objective)
    ways: dict[str, tuple] = {"rollout": (_program(parts, parts.model, own), lambda params: params)}
    if share is not None:
        model, params_of = _rival(parts.model, base, share)
        ways["rival"] = (_program(parts, model, r.samples - own), params_of)
    key = jax.random.key(parts.settings.seed.sampling)

    def draw(params, prompts_QT, lengths_Q, number: int) -> generation.Output:
        found = []
        for purpose, (program, params_of) in ways.items():
            with jax.set_mesh(mesh):
                inputs = (prompts_QT, lengths_Q)
                inputs = meshes.put(inputs, meshes.batch_shardings(inputs, mesh))
                output = program(params_of(params), *inputs, rng.stream(key, number, purpose))
            found.append(jax.tree.map(np.asarray, output))
        return interleave(found, prompts=len(prompts_QT))

    return draw


def _program(parts, model, samples: int) -> Callable:
    r: Rollout = parts.settings.rollout
    return generation.make(
        model, max_new_tokens=r.max_new_tokens, temperature=r.temperature,
        stop_ids=prompting.stop_ids(parts.tokenizer, parts.settings.data),
        pad_id=parts.tokenizer.pad_id or 0,
        samples=samples, slots=r.slots or None, tempered=True,
        out_shardings=meshes.replicated(parts.mesh),
    )  # fmt: skip


def _rival(model, base: Policy, share: float) -> tuple:
    """Return the rival's handle and `params of the policy -> params of the rival`."""
    if share == 1:
        return base.model, lambda params: base.params
    join = lambda params: geometric_mixture.join(params, base.params)
    return geometric_mixture.make(model, base.model, share=share), join


def interleave(outputs: list[generation.Output], *, prompts: int) -> generation.Output:
    """Put the rows of every prompt from several outputs together, in their order."""

    def join(*parts):
        grids = [part.reshape(prompts, -1, *part.shape[1:]) for part in parts]
        return np.concatenate(grids, axis=1).reshape(-1, *parts[0].shape[1:])

    return jax.tree.map(join, *outputs)


def base_of(parts, first, frozen) -> Policy:
    """Return what a run is compared with: its reference, else the policy that it starts from.

    That is the base with adapters off, or a copy of what trains where the base trains itself or
    adapters do not start as it. Of a reference that follows the policy it is where both began.
    """
    policy = Policy(parts.model, frozen, parts.settings.model.chunk)
    if parts.spec.reference and not parts.reference.follows:
        return parts.reference.function(policy, None)
    if parts.starts_as_base and not jax.tree.leaves(first.params["model"]):
        return policy.without_adapters()
    copies = jax.jit(functools.partial(jax.tree.map, jnp.copy))(first.params)
    return dataclasses.replace(policy, params=states.combine(copies, frozen))
