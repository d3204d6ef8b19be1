"""Pairs out of rewards, and what duels teach, in closed form."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import config as conf
from ftjax.objectives import dpo, nash_md, orpo, xpo
from ftjax.rl import preference_pairs

NAN = np.nan


def test_the_best_of_a_group_stands_against_its_worst():
    rewards = np.float32([1, 3, 0, 2, -1, -1, 5, 4])
    found = preference_pairs.ranked(rewards, size=4)
    np.testing.assert_array_equal(found.chosen, [[1], [6]])
    np.testing.assert_array_equal(found.rejected, [[2], [4]])
    np.testing.assert_array_equal(found.margin, [[3], [6]])
    np.testing.assert_array_equal(found.weight, [[1], [1]])


def test_more_pairs_go_from_the_ends_inwards():
    found = preference_pairs.ranked(np.float32([1, 3, 0, 2, 7, 5]), size=6, pairs=3)
    np.testing.assert_array_equal(found.chosen, [[4, 5, 1]])
    np.testing.assert_array_equal(found.rejected, [[2, 0, 3]])
    np.testing.assert_array_equal(found.margin, [[7, 4, 1]])


@pytest.mark.parametrize(
    ("group", "weights"),
    [([2, 2, 2, 2], [0, 0]), ([1, 0, 0, 0], [1, 0]), ([1, 1, 0, 0], [1, 1]),
     ([NAN, NAN, NAN, NAN], [0, 0]), ([NAN, 1, NAN, NAN], [0, 0]), ([NAN, 1, NAN, 0], [1, 0]),
     ([NAN, 3, 1, 2], [1, 0])],
)  # fmt: skip
def test_ties_and_unknown_rewards_are_no_pairs(group, weights):
    found = preference_pairs.ranked(np.float32(group), size=4, pairs=2)
    np.testing.assert_array_equal(found.weight, [weights])
    for k in np.flatnonzero(weights):
        chosen, rejected = found.chosen[0, k], found.rejected[0, k]
        assert found.margin[0, k] == group[chosen] - group[rejected] > 0
    assert np.isfinite(found.margin).all()


def test_a_pair_may_have_to_differ_by_more():
    rewards = np.float32([1, 0.5, 3, 0])
    weights = lambda margin: preference_pairs.ranked(
        rewards, size=2, min_margin=margin
    ).weight.ravel()
    np.testing.assert_array_equal(weights(0.5), [0, 1])
    np.testing.assert_array_equal(weights(3.0), [0, 0])


@pytest.mark.parametrize("wrong", [dict(pairs=0), dict(pairs=2), dict(min_margin=-1.0)])
def test_wrong_pairs_are_refused(wrong):
    with pytest.raises(ValueError, match="expected 1 to 1 pairs of 3 samples"):
        preference_pairs.ranked(np.zeros(6), size=3, **wrong)


def test_wins_are_bradley_terrys():
    own, other = np.float32([2, 0, NAN, 1]), np.float32([0, 0, 1, 3])
    found = preference_pairs.win_probability(own, other, scale=0.5)
    np.testing.assert_allclose(found, 1 / (1 + np.exp([-1, 0, 0, 1])), rtol=1e-6)
    with pytest.raises(ValueError, match=r"advantages\.scale: got 0"):
        preference_pairs.win_probability(own, other, scale=0)


# -- duels -----------------------------------------------------------------------------------------

RATIOS = np.float32([[[0.3, 0.1], [-0.2, 0.4]], [[0.5, -0.5], [0.1, 0.1]]])  # [B, P, T]


def outputs(objective, probability, ratios_BPT):
    """Apply an objective to rows of two targets; the reference's log-probabilities are -1."""
    ones = np.ones((len(ratios_BPT), 2, 3), np.int32)
    batch = {"weights": ones, "segments": ones, "examples": np.ones((len(ones), 1), np.float32)}
    batch["probability"] = np.float32(probability)[:, None]

    def table(values_BPT):
        logps = lambda rows, key=None: values_BPT if rows["weights"].ndim == 3 else values_BPT[:, 0]
        return types.SimpleNamespace(logps=logps)

    return objective(table(ratios_BPT - 1), table(np.full_like(RATIOS, -1)), batch, None)


def test_a_duel_without_a_winner_teaches_xpo_to_explore_alone():
    def loss(ratios):
        found = outputs(xpo.make(alpha=0.3, beta=2.0), [0.5, 0.8], ratios)
        return sum(term.value() for term in found["loss"])

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(RATIOS))
    # Of two rows one is decided, with r_own - r_other = 0 - 0.2; both tell of the other answer.
    logp_other = RATIOS[:, 1].sum(-1) - 2
    wanted = np.log1p(np.exp(2.0 * 0.2)) + 0.3 * logp_other.mean()
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_array_equal(gradient[0, 0], [0, 0])
    np.testing.assert_allclose(gradient[0, 1], [0.15, 0.15], rtol=1e-6)


def test_the_winner_of_xpo_is_the_chosen_answer():
    found = outputs(xpo.make(beta=2.0), [0.9, 0.1], RATIOS)
    # Row 0: own 0.4 wins over 0.2; row 1: other 0.2 wins over 0.
    assert float(found["reward/margin"].value()) == pytest.approx(2.0 * (0.2 + 0.2) / 2)
    assert float(found["reward/accuracy"].value()) == 1


def test_nash_raises_the_own_answer_as_it_wins_and_pulls_it_to_the_reference():
    loss = lambda ratios: outputs(nash_md.make(beta=0.5), [0.9, 0.5], ratios)["loss"].value()
    gradient = jax.grad(loss)(jnp.asarray(RATIOS))
    wanted = (0.5 * RATIOS[:, 0] - np.float32([[0.4], [0.0]])) / 2
    np.testing.assert_allclose(gradient[:, 0], wanted, rtol=1e-5)
    np.testing.assert_array_equal(gradient[:, 1], np.zeros((2, 2)))


@pytest.mark.parametrize(
    "wrong", [dict(name="xpo", beta=0.0), dict(name="xpo", alpha=-1.0),
              dict(name="xpo", loss="ipo"), dict(name="nash_md", beta=-0.1)],
)  # fmt: skip
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=r"objective.*got .*; expected"):
        conf.build(wrong, "objectives", where="objective")


def test_odds_of_a_certain_answer_are_finite():
    """As the reference does, a mean log-probability counts as -1e-7 at most."""
    value, slope = jax.value_and_grad(orpo.log_odds_ratio)(0.0, -1.0)
    wanted = -1e-7 - np.log(1e-7) + 1 + np.log(1 - np.exp(-1))
    assert value == pytest.approx(wanted, rel=1e-5)
    assert slope == 0


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired", ("sigmoid", "aot")])
def test_quantiles_have_no_likelihood_to_weigh(loss):
    with pytest.raises(ValueError, match=r"objective\.wpo: got True with loss .*aot"):
        dpo.make(loss=loss, wpo=True)
