"""Surrogates of policy gradients and the objectives around them, written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.objectives import grpo, ppo, reinforce, rloo
from ftjax.objectives.losses import advantages, policy_gradient
from ftjax.objectives.losses.policy_gradient import Terms
from tests.laws import subjects
from tests.objectives.unigram import OWN, SQUARES, Unigram, loss_of

GENERATOR = np.random.default_rng(0)
LOGP, RATIO, ADVANTAGE = GENERATOR.normal(0, 0.6, (3, 4, 6)).astype(np.float32)
MASK = np.float32([[1] * 6, [1] * 3 + [0] * 3, [0, 1, 1, 1, 0, 0], [1] * 5 + [0]])
TERMS = Terms(LOGP, RATIO, RATIO, ADVANTAGE, MASK)
R, A = np.exp(RATIO), ADVANTAGE


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rows(values):
    return (values * MASK).sum(1, keepdims=True) / MASK.sum(1, keepdims=True)


def of_gamma():
    """VESPO's weight of a row: e^(rate (1 - w)) w^power."""
    w = np.exp((RATIO * MASK).sum(1, keepdims=True))
    power, rate = np.where(A >= 0, 2.0, 3.0), np.where(A >= 0, 3.0, 2.0)
    return -np.exp(rate * (1 - w)) * w**power * A * LOGP


def of_means():
    logs = np.where(A > 0, np.minimum(RATIO, np.clip(RATIO, -0.3, 0.5)),
                    np.maximum(RATIO, np.clip(RATIO, -0.3, 0.5)))  # fmt: skip
    return -np.exp(rows(logs)) * A


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [("clip", dict(low=0.1, high=0.3), -np.minimum(R * A, np.clip(R, 0.9, 1.3) * A)),
     ("clip", dict(low=0.1, high=0.3, delta=1.5),
      -np.minimum(np.minimum(R, 1.5) * A, np.clip(R, 0.9, 1.3) * A)),
     ("cispo", dict(high=1.2), -np.minimum(R, 1.2) * A * LOGP),
     ("sapo", dict(up=1.0, down=2.0),
      -sigmoid(np.where(A > 0, 1, 2) * (R - 1)) * 4 / np.where(A > 0, 1, 2) * A),
     ("vespo", {}, of_gamma()),
     ("gmpo", dict(low=0.3, high=0.5), of_means())],
    ids=["clip", "two_sided", "cispo", "sapo", "vespo", "gmpo"],
)  # fmt: skip
def test_surrogates(name, options, wanted):
    found = vars(policy_gradient)[name](**options)(TERMS)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_weights_of_log_probabilities_have_no_gradient():
    def total(logp):
        return policy_gradient.cispo(high=1.2)(Terms(logp, logp, logp, A, MASK)).sum()

    wanted = -np.minimum(np.exp(LOGP), 1.2) * A
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(LOGP)), wanted, rtol=1e-5)


def test_levels_of_importance():
    sums = (RATIO * MASK).sum(1, keepdims=True)
    wanted = {"token": RATIO, "sequence": rows(RATIO), "whole": sums}
    wanted["sequence_token"] = rows(RATIO) + 0 * RATIO
    assert wanted.keys() == policy_gradient.IMPORTANCE.keys()
    for name, level in policy_gradient.IMPORTANCE.items():
        np.testing.assert_allclose(level(RATIO, MASK), wanted[name], rtol=1e-5, atol=1e-6)


# -- the objective of groups -----------------------------------------------------------------------

BATCH = subjects.batch(rows=3) | subjects.experience(3)
HERE = (BATCH["weights"][:, 1:] > 0).astype(np.float32)
TARGETS = BATCH["tokens"][:, 1:]
OWN_LOGPS = OWN[TARGETS]
OWN_RATIO = np.exp((OWN_LOGPS - BATCH["old_logps"]) * HERE)
CLIPPED = -np.minimum(
    OWN_RATIO * BATCH["advantages"], np.clip(OWN_RATIO, 0.8, 1.2) * BATCH["advantages"]
)


def mean(values, weights=HERE):
    return (values * weights).sum() / weights.sum()


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [("dapo", {}, mean(CLIPPED)),
     ("grpo", {}, ((CLIPPED * HERE).sum(1) / HERE.sum(1)).mean()),
     ("dr_grpo", dict(limit=7), (CLIPPED * HERE).sum() / (3 * 7))],
)  # fmt: skip
def test_averages(name, options, wanted):
    found = loss_of(grpo.make(loss=name, **options), BATCH)
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_entropy_is_a_bonus_and_chooses_tokens():
    plain = float(loss_of(grpo.make(), BATCH))
    with_bonus = float(loss_of(grpo.make(entropy_weight=0.3), BATCH))
    assert with_bonus - plain == pytest.approx(-0.3 * mean(SQUARES[TARGETS]), rel=1e-3)
    entropy = SQUARES[TARGETS]
    edge = np.quantile(entropy[HERE > 0], 0.75)
    kept = grpo.highest(entropy, HERE, share=0.25)
    np.testing.assert_array_equal(kept, (entropy >= edge) & (HERE > 0))
    chosen = float(loss_of(grpo.make(entropy_share=0.25), BATCH))
    assert chosen == pytest.approx(mean(CLIPPED * np.asarray(kept)), rel=1e-4)


@pytest.mark.parametrize("corrected", [False, True])
def test_the_divergence_is_added(corrected):
    d = OWN_LOGPS - BATCH["ref_logps"]
    k3 = (np.exp(-d) - 1 + d) * (OWN_RATIO if corrected else 1)
    found = loss_of(grpo.make(kl_weight=0.2, kl_corrected=corrected), BATCH)
    assert float(found) == pytest.approx(mean(CLIPPED + 0.2 * k3), rel=1e-4)


def test_bad_rows_that_the_policy_has_left_are_masked():
    terms = Terms(LOGP, RATIO, RATIO, A[:, :1], MASK)
    away = -rows(RATIO)
    most = float(np.median(away))
    found = grpo.on_policy(terms, max_divergence=most)
    np.testing.assert_array_equal(found, (A[:, :1] >= 0) | (away <= most))


# -- proximal policy optimisation ------------------------------------------------------------------


def test_losses_of_policy_and_values():
    found = ppo.clipped_losses(RATIO, A, clip=0.2)
    np.testing.assert_allclose(found, np.maximum(-A * R, -A * np.clip(R, 0.8, 1.2)), rtol=1e-5)
    values, old, returns = GENERATOR.normal(size=(3, 4, 6)).astype(np.float32)
    kept = np.clip(values, old - 0.2, old + 0.2)
    wanted = np.maximum((values - returns) ** 2, (kept - returns) ** 2) / 2
    np.testing.assert_allclose(
        ppo.value_losses(values, old, returns, clip=0.2), wanted, rtol=1e-4, atol=1e-6
    )


def test_the_loss_of_values_is_weighed():
    terms = ppo.make(value_weight=0.3)(Unigram(jnp.asarray(OWN)), None, BATCH, None)
    total = sum(term.value() for term in terms["loss"])
    wanted = terms["loss/policy"].value() + 0.3 * terms["loss/value"].value()
    assert float(total) == pytest.approx(float(wanted), rel=1e-5)


def experience(rewards=(1.0, 0.0, 0.5, -1.0)):
    """Make four answers in groups of two, with a divergence."""
    own, base, values = np.random.default_rng(4).normal(size=(3, 4, 6)).astype(np.float32)
    return advantages.Experience(
        np.float32(rewards)[:, None], (1.0,), 2, MASK, own, base, values, kl_scale=2.0
    )


def at_last(rewards, mask):
    found = np.zeros(mask.shape, np.float32)
    for b, row in enumerate(mask):
        found[b, np.flatnonzero(row)[-1]] = rewards[b]
    return found


def white(values):
    inside = values[MASK > 0]
    return (values - inside.mean()) / np.sqrt(inside.var(ddof=1) + 1e-8) * MASK


def test_credit_of_ppo():
    e = experience()
    found = ppo.make_advantages(kl_weight=0.1, discount=0.9, decay=0.8)(e)
    rewards = (at_last(e.rewards_BF[:, 0], MASK) - 0.1 * 2 * (e.logps_BT - e.ref_logps_BT)) * MASK
    values = np.pad(e.values_BT * MASK, ((0, 0), (0, 1)))
    credit = np.zeros((4, 7), np.float32)
    for t in reversed(range(6)):
        error = rewards[:, t] + 0.9 * values[:, t + 1] - values[:, t]
        credit[:, t] = error + 0.9 * 0.8 * credit[:, t + 1]
    credit = credit[:, :6]
    np.testing.assert_allclose(found["advantages"], white(credit), rtol=1e-4, atol=1e-5)
    returns = (credit + values[:, :6]) * MASK
    np.testing.assert_allclose(found["returns"], returns, rtol=1e-4, atol=1e-5)


def test_credit_of_the_simpler_ones():
    e = experience()
    away = (e.logps_BT - e.ref_logps_BT) * MASK
    rewards = e.rewards_BF[:, 0] - 0.1 * 2 * away.sum(1)
    others = rewards.reshape(2, 2)[:, ::-1].reshape(-1)
    found = rloo.make_advantages(kl_weight=0.1)(e)["advantages"]
    np.testing.assert_allclose(found, rewards - others, rtol=1e-4)
    tokens = at_last(e.rewards_BF[:, 0], MASK) - 0.1 * 2 * away
    sums = np.stack([tokens[:, t:] @ 0.9 ** np.arange(6 - t) for t in range(6)], axis=1)
    found = reinforce.make_advantages(kl_weight=0.1, discount=0.9)(e)["advantages"]
    np.testing.assert_allclose(found, white(sums), rtol=1e-4, atol=1e-5)
