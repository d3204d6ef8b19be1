"""Objectives of pairs, single answers and duels, from known log-probabilities written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.objectives import (
    bco,
    cpo,
    dft,
    distillation,
    dpo,
    kto,
    nash_md,
    orpo,
    reward,
    simpo,
    xpo,
)
from tests.laws import subjects
from tests.objectives.unigram import (
    BASE,
    OWN,
    SQUARES,
    agree,
    average,
    counts,
    loss_of,
    of_examples,
)

BATCH = subjects.answers(rows=3, count=2)
CHOSEN, REJECTED = counts(BATCH, 0), counts(BATCH, 1)
LENGTHS = CHOSEN.sum(1), REJECTED.sum(1)
log_sigmoid, still = jax.nn.log_sigmoid, jax.lax.stop_gradient


def found(module, **options):
    return functools.partial(loss_of, module.make(**options), BATCH)


def nll(table, tokens=CHOSEN):
    return -(tokens @ table).sum() / tokens.sum()


def ratios(table):
    return CHOSEN @ (table - BASE), REJECTED @ (table - BASE)


def test_dpo_compares_log_ratios_and_adds_the_chosen_likelihood():
    def wanted(table):
        chosen, rejected = ratios(table)
        return average(-log_sigmoid(0.3 * (chosen - rejected)), BATCH) + 0.5 * nll(table)

    agree(found(dpo, beta=0.3, sft=0.5), wanted)


def test_wpo_weighs_pairs_by_their_likelihood():
    def wanted(table):
        chosen, rejected = ratios(table)
        sides = zip((CHOSEN, REJECTED), LENGTHS, strict=True)
        likely = sum(each @ (table - SQUARES) / length for each, length in sides)
        pairs = -log_sigmoid(0.3 * (chosen - rejected))
        return average(still(jnp.exp(likely)) * pairs, BATCH)

    agree(found(dpo, beta=0.3, wpo=True), wanted)


def test_a_divergence_bends_the_ratios():
    def wanted(table):
        chosen, rejected = (1 - jnp.exp(-r) for r in ratios(table))
        return average(-log_sigmoid(0.3 * (chosen - rejected)), BATCH)

    near = BASE + (OWN - BASE) / 20
    options = dict(beta=0.3, divergence="forward_kl")
    agree(found(dpo, **options), wanted, near)


def test_aot_aligns_margins_with_those_of_the_reference():
    def wanted(table):
        margins = (CHOSEN - REJECTED) @ jnp.stack([table, BASE], axis=1)
        above, below = jnp.sort(margins, axis=0).T
        return average(-log_sigmoid(0.3 * (above - below)), BATCH)

    agree(found(dpo, beta=0.3, loss="aot"), wanted)


@pytest.mark.parametrize("nearer", [1, -1], ids=["above", "below"])
def test_kto_asks_each_answer_to_lie_on_its_side_of_the_divergence(nearer):
    """Which is that of answers to other prompts, never below 0, and has no gradient."""
    table = BASE + nearer * np.abs(OWN - BASE) / 10

    def wanted(table):
        own, other = ratios(table)
        level = still(jnp.maximum(average(other, BATCH), 0))
        good = of_examples(BATCH, "label") > 0
        loss = 1 - jax.nn.sigmoid(0.3 * jnp.where(good, own - level, level - own))
        return average(loss * jnp.where(good, 1.5, 0.5), BATCH)

    assert 0 < of_examples(BATCH, "label").mean() < 1
    agree(found(kto, beta=0.3, good_weight=1.5, bad_weight=0.5), wanted, table)


def test_bco_classifies_around_the_mean_reward():
    def wanted(table):
        rewards = 0.3 * ratios(table)[0]
        level = still(average(rewards, BATCH))
        sign = 2 * of_examples(BATCH, "label") - 1
        return average(-log_sigmoid(sign * (rewards - level)), BATCH)

    agree(found(bco, beta=0.3), wanted)


def test_orpo_adds_the_odds_to_the_likelihood_of_prompt_and_answer():
    def log_odds(mean):
        return mean - jnp.log(1 - jnp.exp(mean))

    def wanted(table):
        chosen, rejected = CHOSEN @ table / LENGTHS[0], REJECTED @ table / LENGTHS[1]
        pairs = -0.5 * log_sigmoid(log_odds(chosen) - log_odds(rejected))
        return nll(table, counts(BATCH, 0, inside=True)) + average(pairs, BATCH)

    agree(found(orpo, beta=0.5), wanted, -np.abs(OWN))


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_simpo_asks_for_a_margin_per_token(alpha):
    def bent(mean):
        return (1 - jnp.exp(-alpha * mean)) / alpha if alpha else mean

    def wanted(table):
        chosen, rejected = bent(CHOSEN @ table / LENGTHS[0]), bent(REJECTED @ table / LENGTHS[1])
        pairs = -log_sigmoid(2.0 * (chosen - rejected) - 0.5)
        return average(pairs, BATCH) + 0.3 * nll(table)

    agree(found(simpo, beta=2.0, gamma=0.5, alpha=alpha, nll=0.3), wanted)


def test_cpo_compares_sums_and_its_squared_loss_means():
    def sums(table):
        return average(-log_sigmoid(0.3 * (CHOSEN - REJECTED) @ table), BATCH) + 0.5 * nll(table)

    def means(table):
        margin = CHOSEN @ table / LENGTHS[0] - REJECTED @ table / LENGTHS[1]
        return average((margin - 1 / 0.6) ** 2, BATCH)

    agree(found(cpo, beta=0.3, nll=0.5), sums)
    agree(found(cpo, beta=0.3, nll=0.0, loss="squared"), means)


def test_a_reward_must_exceed_the_margin_and_is_centred():
    last = [np.eye(64, dtype=np.float32)[tokens] for tokens in ends()]

    def wanted(table):
        chosen, rejected = (each @ table for each in last)
        pairs = -log_sigmoid(chosen - rejected - of_examples(BATCH, "margin"))
        return average(pairs + 0.1 * (chosen + rejected) ** 2, BATCH)

    agree(found(reward, centre=0.1), wanted)


def ends():
    """Name the last token of both answers of every example."""
    for p in (0, 1):
        yield [
            BATCH["tokens"][b, p][BATCH["segments"][b, p] == s + 1][-1]
            for b, s in zip(*np.nonzero(BATCH["examples"]), strict=True)
        ]


def test_xpo_learns_from_the_winner_and_explores_the_other():
    side = np.sign(of_examples(BATCH, "probability") - 0.5)

    def wanted(table):
        own, other = ratios(table)
        pairs = average(-log_sigmoid(0.3 * side * (own - other)), BATCH)
        return pairs + 0.1 * average(REJECTED @ table, BATCH)

    assert set(side) == {-1, 1}
    agree(found(xpo, beta=0.3, alpha=0.1), wanted)


def test_a_tie_is_no_pair_for_xpo():
    tie = BATCH | {"probability": np.full_like(BATCH["probability"], 0.5)}
    wanted = lambda table: 0.1 * average(REJECTED @ table, BATCH)
    agree(functools.partial(loss_of, xpo.make(beta=0.3, alpha=0.1), tie), wanted)


def test_nash_weighs_log_probabilities_by_win_and_distance():
    win = of_examples(BATCH, "probability") - 0.5

    def wanted(table):
        away = CHOSEN @ still((table - BASE)[:, None] * jnp.eye(64)) - win[:, None] * CHOSEN / 0.5
        return average(0.5 * (away * table).sum(1), BATCH)

    agree(found(nash_md, beta=0.5), wanted)


def test_dft_weighs_tokens_by_their_probability():
    batch = subjects.batch()
    tokens, weights = batch["tokens"][:, 1:], batch["weights"][:, 1:]

    def wanted(table):
        logp = table[tokens]
        return -(weights * still(jnp.exp(logp)) * logp).sum() / weights.sum()

    agree(functools.partial(loss_of, dft.make(), batch), wanted)


def test_distillation_adds_the_likelihood_of_the_data():
    batch = subjects.batch()
    tokens, weights = batch["tokens"][:, 1:], batch["weights"][:, 1:]

    def wanted(table):
        student, teacher = jax.nn.log_softmax(table), jax.nn.log_softmax(BASE)
        forward = (jnp.exp(teacher) * (teacher - student)).sum()
        return forward - 0.5 * (weights * table[tokens]).sum() / weights.sum()

    agree(functools.partial(loss_of, distillation.make(nll=0.5), batch), wanted)
