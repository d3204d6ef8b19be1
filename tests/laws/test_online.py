"""Laws of objectives that learn from samples: the first ratio, and rewards that say nothing."""

import functools
import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core.mean import Mean
from ftjax.objectives.losses.advantages import Experience
from ftjax.rl import batches, rollout_batch
from ftjax.sampling import generation
from ftjax.train import reference_policy
from ftjax.train.policy import Policy
from tests.laws import subjects

FAMILY, SAMPLES, PROMPTS, NEW = subjects.PLAIN, 8, 2, 5
SPECS = {name: module.SPEC for name, module in subjects.OBJECTIVES.items()}
RATIOS = [name for name, spec in SPECS.items() if spec.ratio]
SAMPLED = [name for name, spec in SPECS.items() if spec.batch.sampled]
ONLINE = [*SAMPLED, *(name for name, spec in SPECS.items() if spec.data == "preference")]
# PPO's returns teach its value head a constant; the best of equal answers is one of them.
LEARN_FROM_CONSTANTS = ("ppo", "best_of")


@functools.cache
def sampled(temperature):
    """Sample answers of the policy as a run does; returns the batch."""
    model, prompts = subjects.model(FAMILY), np.arange(1, 1 + 3 * PROMPTS).reshape(PROMPTS, 3)
    draw = generation.make(
        model, max_new_tokens=NEW, temperature=temperature, samples=SAMPLES, tempered=True
    )
    lengths, params = np.full(PROMPTS, 3, np.int32), params_of("sft")
    output = jax.tree.map(np.asarray, draw(params, np.int32(prompts), lengths, jax.random.key(0)))
    repeat = lambda each: np.repeat(each, SAMPLES, axis=0)
    return rollout_batch.batch_of(repeat(np.int32(prompts)), repeat(lengths), output)


def params_of(name):
    return subjects.params_for(name, {"model": subjects.weights(FAMILY), "adapters": None})


@pytest.mark.parametrize("temperature", [0.5, 1.3])
@pytest.mark.parametrize("name", RATIOS)
def test_the_first_ratio_is_1_at_every_temperature(name, temperature):
    batch = sampled(temperature)
    zeros = np.zeros_like(batch["old_logps"])
    more = dict.fromkeys(("advantages", "ref_logps", "old_values", "returns"), zeros)
    objective = subjects.OBJECTIVES[name].make(temperature=temperature)

    def run(params):
        policy = Policy(subjects.model(FAMILY), params, subjects.CHUNK)
        found = objective(policy, reference_policy.adapters_off(policy, batch), batch | more, None)
        return found["ratio"].value()

    assert float(jax.jit(run)(params_of(name))) == pytest.approx(1, abs=1e-5)


def test_every_objective_that_has_a_temperature_of_sampling_says_so():
    takes = lambda name: (
        "temperature" in inspect.signature(subjects.OBJECTIVES[name].make).parameters
    )
    assert [name for name in SAMPLED if takes(name)] == RATIOS


def silent(name, what):
    """Switch off every term that is not the reward's: bonuses and distances."""
    off = {"alpha", "beta", "kl_weight"} if SPECS[name].data == "duel" else {"kl_weight"}
    own = inspect.signature(getattr(subjects.OBJECTIVES[name], what)).parameters
    return {key: 0.0 for key in off & own.keys() if key != "beta" or name == "nash_md"}


def taught(name, reward, keywords):
    """Make the batch of equal rewards, as a run does."""
    batch = sampled(1.0)
    experience = Experience(
        jnp.full((PROMPTS * SAMPLES, 1), reward, jnp.float32), (1.0,), SAMPLES,
        (batch["weights"][:, 1:] > 0).astype(np.float32), batch["old_logps"], batch["old_logps"],
        None, 1.0,
    )  # fmt: skip
    rollout = types.SimpleNamespace(prompts=PROMPTS, samples=SAMPLES, mixture=None)
    settings = types.SimpleNamespace(
        rollout=rollout, advantages=keywords, objective=dict(name=name), rewards={"r": {}},
        reference=types.SimpleNamespace(name="adapters_off"),
    )  # fmt: skip
    return batches.make(settings, subjects.OBJECTIVES[name]).make(experience, batch)[0]


@pytest.mark.parametrize("name", [n for n in ONLINE if n not in LEARN_FROM_CONSTANTS])
def test_equal_rewards_move_nothing(name):
    """Whatever the number, its rounded mean may differ from it."""
    module, params = subjects.OBJECTIVES[name], params_of(name)
    given = silent(name, "make_advantages") if SPECS[name].data == "experience" else {}
    objective = module.make(**silent(name, "make"))

    def loss(model, batch):
        policy = Policy(subjects.model(FAMILY), params | {"model": model}, subjects.CHUNK)
        fixed = policy.without_gradient()
        refer = subjects.reference_for(name)
        terms = objective(policy, refer(fixed, batch), batch, None)["loss"]
        terms = (terms,) if isinstance(terms, Mean) else terms
        return sum(term.value() for term in terms)

    gradient = jax.jit(jax.grad(loss))
    for reward in (0.1, 0.7, 0.9):
        found = gradient(params["model"], taught(name, reward, given))
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(found)) == 0, reward
