import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.objectives import best_of, grpo, reinforce, rloo
from ftjax.objectives.losses import advantages, kl
from ftjax.train.policy import Policy
from tests.laws import subjects

GENERATOR = np.random.default_rng(0)
REWARDS, VALUES = GENERATOR.normal(size=(2, 3, 7)).astype(np.float32)


def experience(rewards_BF, *, samples=4, **changes):
    """Make experience of rows of five places."""
    rows = len(rewards_BF)
    zeros = np.zeros((rows, 5), np.float32)
    fields = dict(
        rewards_BF=jnp.asarray(rewards_BF), weights_F=(1.0,) * rewards_BF.shape[1],
        samples=samples, mask_BT=zeros + 1, logps_BT=zeros, ref_logps_BT=zeros, values_BT=None,
        kl_scale=1.0,
    )  # fmt: skip
    return advantages.Experience(**fields | changes)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_gae_without_decay_is_the_return_less_the_value(discount):
    found, returns = advantages.gae(REWARDS, VALUES, discount=discount, decay=1.0)
    powers = discount ** np.arange(7)
    wanted = np.stack([REWARDS[:, t:] @ powers[: 7 - t] for t in range(7)], axis=1)
    np.testing.assert_allclose(returns, wanted, rtol=1e-5)
    np.testing.assert_allclose(found, wanted - VALUES, rtol=1e-4, atol=1e-5)


def test_gae_of_full_decay_is_the_error_of_one_step():
    found, _ = advantages.gae(REWARDS, VALUES, discount=0.9, decay=0.0)
    later = np.concatenate([VALUES[:, 1:], np.zeros((3, 1))], axis=1)
    np.testing.assert_allclose(found, REWARDS + 0.9 * later - VALUES, rtol=1e-5, atol=1e-6)


def test_gae_is_the_sum_of_decayed_errors():
    discount, decay = 0.97, 0.9
    found, _ = advantages.gae(REWARDS, VALUES, discount=discount, decay=decay)
    errors, _ = advantages.gae(REWARDS, VALUES, discount=discount, decay=0.0)
    powers = (discount * decay) ** np.arange(7)
    wanted = np.stack([np.asarray(errors)[:, t:] @ powers[: 7 - t] for t in range(7)], axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", advantages.SCALES)
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("reward", [1.0, 0.1, 0.7, 0.9])
def test_a_group_of_equal_rewards_has_no_advantage(scale, decoupled, reward):
    """None at all, beside a group that has some too."""
    rewards = np.float32([[reward, 0.5]] * 8 + [[k, -k] for k in range(8)])
    given = experience(rewards, samples=8)
    credits = grpo.make_advantages(scale=scale, decoupled=decoupled), rloo.make_advantages()
    for credit in credits:
        found = np.asarray(credit(given)["advantages"])
        np.testing.assert_array_equal(found[:8], np.zeros(8))
    flat = given._replace(rewards_BF=given.rewards_BF[:8])
    np.testing.assert_array_equal(credits[0](flat)["advantages"], np.zeros(8))


@pytest.mark.parametrize("scale", advantages.SCALES)
def test_one_known_reward_of_a_group_is_no_advantage(scale):
    rewards = jnp.float32([np.nan, 3, np.nan, np.nan, 1, 2, 3, 4])
    for found in (
        advantages.of_groups(rewards, size=4, scale=scale),
        advantages.leave_one_out(rewards, size=4),
    ):
        np.testing.assert_array_equal(found[:4], np.zeros(4))
        assert np.abs(found[4:]).min() > 0


def test_deviations_of_groups_are_unbiased():
    """Of 1, 2, 3, 6 the mean is 3 and the squares add to 14: over 3, not over 4."""
    rewards = np.float32([1, 2, 3, 6])
    found = advantages.of_groups(jnp.asarray(rewards), size=4)
    np.testing.assert_allclose(found, (rewards - 3) / (np.sqrt(14 / 3) + 1e-4), rtol=1e-5)
    found = advantages.normalised(jnp.asarray(rewards))
    np.testing.assert_allclose(found, (rewards - 3) / (np.sqrt(14 / 3) + 1e-4), rtol=1e-5)


def test_the_deviation_of_a_batch_is_that_of_all_its_rewards():
    rewards = np.float32([1, 2, 3, 6])
    found = advantages.of_groups(jnp.asarray(rewards), size=2, scale="batch")
    centred = np.float32([-0.5, 0.5, -1.5, 1.5])
    np.testing.assert_allclose(found, centred / (np.sqrt(14 / 3) + 1e-4), rtol=1e-5)


def test_rewards_add_under_their_weights_and_each_by_itself_when_decoupled():
    rewards = np.float32([[1, 0], [3, 8], [2, np.nan], [np.nan, np.nan]])
    found = advantages.total(jnp.asarray(rewards), (2.0, 0.5))
    np.testing.assert_array_equal(found, [2, 10, 4, np.nan])
    rewards = GENERATOR.normal(size=(4, 2)).astype(np.float32)
    groups = rewards.reshape(2, 2, 2)
    deviation = groups.std(axis=1, ddof=1, keepdims=True) + 1e-4
    each = ((groups - groups.mean(1, keepdims=True)) / deviation).reshape(4, 2)
    sums = each @ [2.0, 0.5]
    found = advantages.decoupled(jnp.asarray(rewards), (2.0, 0.5), size=2)
    np.testing.assert_allclose(found, sums / (sums.std(ddof=1) + 1e-4), rtol=1e-4)


def test_white_values_may_keep_their_mean():
    values, mask = np.float32([[1, 2, 9], [3, 6, 9]]), np.float32([[1, 1, 0]] * 2)
    found = advantages.whitened(values, mask, centre=False)[:, :2]
    inside = values[:, :2]
    np.testing.assert_allclose(found, (inside - 3) / np.sqrt(14 / 3) + 3, rtol=1e-5)


@pytest.mark.parametrize("loss", grpo.VARIANTS)
def test_no_advantage_is_no_gradient(loss):
    """So a group of equal rewards teaches nothing, whichever the loss."""
    model, params = subjects.model(subjects.PLAIN), subjects.weights(subjects.PLAIN)
    batch = subjects.batch_for("grpo")
    objective = grpo.make(loss=loss, limit=8)

    def value(logps, factor):
        policy = _Table(model, {"model": params}, 5, logps)
        given = batch | {"advantages": factor * np.float32([1, -1, 2, -2])}
        return sum(t.value() for t in objective(policy, policy, given, None)["loss"])

    logps, gradient = batch["old_logps"] + 0.1, jax.jit(jax.grad(value))
    np.testing.assert_array_equal(gradient(logps, 0.0), np.zeros_like(logps))
    assert np.abs(gradient(logps, 1.0)).max() > 0


class _Table(Policy):
    """A policy whose log-probabilities are given."""

    def __init__(self, model, params, chunk, logps):
        super().__init__(model, params, chunk)
        object.__setattr__(self, "table", logps)

    def statistics(self, batch, key=None, **options):
        from ftjax.train.policy import Statistics

        return Statistics(self.table, *[None] * (len(Statistics._fields) - 1))


def test_the_best_of_each_group_is_kept():
    rewards = np.float32([[0], [2], [1], [2], [0], [0], [np.nan], [-1]])
    kept = best_of.make_advantages(min_reward=1)(experience(rewards))["keep"]
    np.testing.assert_array_equal(kept, [0, 1, 0, 0, 0, 0, 0, 0])


def test_rewards_of_tokens_stand_on_the_last():
    mask = np.float32([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    found = advantages.at_last(jnp.float32([3, 4, 5]), mask)
    np.testing.assert_array_equal(found, [[0, 0, 3, 0], [0, 0, 0, 0], [0, 0, 0, 5]])


def test_token_advantages_are_white():
    rewards = GENERATOR.normal(size=(8, 1)).astype(np.float32)
    found = reinforce.make_advantages(kl_weight=0.1)(experience(rewards))["advantages"]
    assert abs(float(found.mean())) < 1e-6
    np.testing.assert_allclose(found.var(ddof=1), 1, rtol=1e-4)


def test_groups_that_are_cut_are_refused():
    with pytest.raises(ValueError, match=r"groups of 4 for 6 rows.*rollout\.samples"):
        advantages.of_groups(jnp.zeros(6), size=4)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_estimators_are_unbiased(name):
    logits = GENERATOR.normal(size=(2, 9))
    p, q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = (p * kl.ESTIMATORS[name](np.log(p), np.log(q))).sum()
    np.testing.assert_allclose(found, (p * np.log(p / q)).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [(dict(loss="grop"), "objective.loss: got 'grop'.*did you mean 'grpo'"),
     (dict(kl="k4"), "objective.kl: got 'k4'"), (dict(hihg=1.0), "objective.hihg: unknown key"),
     (dict(loss="dr_grpo"), "objective.limit: got none"),
     (dict(importance="row"), "objective.importance: got 'row'")],
)  # fmt: skip
def test_wrong_numbers_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        grpo.make(**changes)
