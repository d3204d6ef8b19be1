"""What the answers of a round become, by the kind of data that the objective learns from.

    experience   each answer with its credit                 grpo, rloo, reinforce, ppo, best_of
    preference   the better against the worse of a prompt    dpo, simpo, cpo, orpo, ...
    duel         an own answer against the rival's           xpo, nash_md
    tokens       each answer as it is; no rewards needed     distillation

`advantages` of a config holds the keywords of whatever turns rewards into that: the objective's
`make_advantages`, `preferences.ranked`, `preferences.win_probability`, nothing. A batch counts rows
of answers, pairs, duels, rows.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ftjax.core import config as conf
from ftjax.core.mean import Mean
from ftjax.objectives.losses import advantages
from ftjax.objectives.losses import spec as specs
from ftjax.rl import answers as drawing
from ftjax.rl import preference_pairs, rollout_batch
from ftjax.run.config import Settings


class BatchMaker(NamedTuple):
    """How the samples of a round become batches."""

    count: int  # rows of all batches of a pass over the round
    unit: str  # what they are counted as, in keys of a config
    make: Callable  # (experience, batch of all answers) -> (batch, metrics)


def make(settings: Settings, objective: ModuleType) -> BatchMaker:
    """Find what makes the batches of an objective.

    Raises:
      ValueError: it learns from nothing that a round gives, or `advantages` or `rewards` are wrong.
    """
    spec = specs.of(objective)
    if spec.data not in MAKERS or not (spec.batch.judged or spec.reference):
        raise ValueError(
            f"objective.name: got {settings.objective['name']!r}, which learns from data of kind "
            f"{spec.data!r}; expected an objective of one of the kinds {conf.listed(MAKERS)}, the "
            "last one with a teacher; samples can be made into these alone"
        )
    if spec.batch.judged and not settings.rewards:
        raise ValueError("rewards: got none; expected one at least, as rewards.exact.name='exact'")
    if settings.reference.name == "cached":
        raise ValueError(
            "reference.name: got 'cached'; expected adapters_off, frozen or model: answers that "
            "are sampled during the run cannot be scored before it"
        )
    return MAKERS[spec.data](settings, objective)


def _experience(settings: Settings, objective: ModuleType) -> BatchMaker:
    del objective
    spec = {"name": settings.objective["name"], **settings.advantages}
    credit = conf.build(spec, "objectives", attr="make_advantages", where="advantages")

    def make_batch(e: advantages.Experience, batch: dict) -> tuple[dict, dict]:
        found = {name: np.asarray(each) for name, each in credit(e).items()}
        return batch | {"ref_logps": e.ref_logps_BT, **rollout_batch.spread(found, batch)}, {}

    return _by_row(settings, make_batch)


def _by_row(settings: Settings, make_batch: Callable) -> BatchMaker:
    r = settings.rollout
    return BatchMaker(r.prompts * r.samples, "rollout.prompts x rollout.samples", make_batch)


def _preference(settings: Settings, objective: ModuleType) -> BatchMaker:
    del objective
    r = settings.rollout

    def rank(rewards_B) -> preference_pairs.Ranked:
        given = dict(rewards_B=rewards_B, size=r.samples)
        return conf.call(
            preference_pairs.ranked, settings.advantages, where="advantages", extra=given
        )  # fmt: skip

    def make_batch(e: advantages.Experience, batch: dict) -> tuple[dict, dict]:
        total_B = advantages.total(e.rewards_BF, e.weights_F)
        found = rank(total_B)
        flat = {name: np.asarray(each).reshape(-1, 1) for name, each in found._asdict().items()}
        index_GP = np.concatenate([flat["chosen"], flat["rejected"]], axis=1)
        pairs = {"examples": flat["weight"], "margin": flat["margin"]}
        known_B = jnp.nan_to_num(total_B)
        metrics = {
            "pair/chosen": Mean.of(known_B[found.chosen], found.weight),
            "pair/rejected": Mean.of(known_B[found.rejected], found.weight),
            "pair/margin": Mean.of(found.margin, found.weight), "pair/kept": Mean.of(found.weight),
        }  # fmt: skip
        # Losses with a term of single answers must not see those of groups without a preference.
        found = rollout_batch.together(batch, index_GP)
        found = {n: x * (flat["weight"][..., None] > 0).astype(x.dtype) for n, x in found.items()}
        return found | pairs, _values(metrics)

    pairs = rank(jnp.zeros(r.samples)).weight.shape[1]
    return BatchMaker(r.prompts * pairs, "rollout.prompts x advantages.pairs", make_batch)


def _duel(settings: Settings, objective: ModuleType) -> BatchMaker:
    r, own = settings.rollout, drawing.own_samples(settings.rollout, objective)

    def judge(own_B, other_B):
        given = dict(own_B=own_B, other_B=other_B)
        return conf.call(
            preference_pairs.win_probability, settings.advantages, where="advantages", extra=given
        )  # fmt: skip

    def make_batch(e: advantages.Experience, batch: dict) -> tuple[dict, dict]:
        index_QN = np.arange(len(e.rewards_BF)).reshape(-1, r.samples)
        index_GP = np.stack([index_QN[:, :own], index_QN[:, own:]], axis=-1).reshape(-1, 2)
        total_GP = advantages.total(e.rewards_BF, e.weights_F)[index_GP]
        probability_G = judge(*total_GP.T)
        duels = {"probability": np.asarray(probability_G)[:, None]}
        duels["examples"] = np.ones_like(duels["probability"])
        metrics = {
            "duel/other": Mean.of(jnp.nan_to_num(total_GP[:, 1]), ~jnp.isnan(total_GP[:, 1])),
            "duel/wins": Mean.of(probability_G > 0.5), "duel/ties": Mean.of(probability_G == 0.5),
        }  # fmt: skip
        return rollout_batch.together(batch, index_GP) | duels, _values(metrics)

    judge(jnp.zeros(1), jnp.zeros(1))
    return BatchMaker(r.prompts * own, "rollout.prompts x rollout.samples / 2", make_batch)


def _tokens(settings: Settings, objective: ModuleType) -> BatchMaker:
    if settings.advantages:
        raise ValueError(
            f"advantages: got {conf.listed(settings.advantages)} for {objective.__name__}; "
            "expected nothing: it learns from a teacher, not from rewards"
        )
    return _by_row(settings, lambda experience, batch: (batch, {}))


# By the kind of batch; see `data.kinds`.
MAKERS: Mapping[str, Callable] = {
    "experience": _experience, "preference": _preference, "duel": _duel, "tokens": _tokens,
}  # fmt: skip


def _values(metrics: Mapping[str, Mean]) -> dict[str, float]:
    return {name: float(mean.value()) for name, mean in metrics.items()}
