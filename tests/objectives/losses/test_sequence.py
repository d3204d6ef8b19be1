"""Sums over answers of packed rows, against loops."""

import numpy as np
import pytest

from ftjax.objectives.losses import sequence
from tests.laws import subjects

BATCH = subjects.answers(rows=3, count=2)
BATCH["weights"][2, 1, -3:] = 0  # a shorter answer
LOGPS = np.random.default_rng(1).normal(-2, 1, BATCH["tokens"][..., 1:].shape).astype(np.float32)


def answers():
    """Yield (row, answer, example, places of its tokens)."""
    for b, p, s in np.ndindex(3, 2, 2):
        places = np.flatnonzero(BATCH["segments"][b, p] == s + 1)
        if len(places):
            yield b, p, s, places


def learned(b, p, places):
    return [t for t in places[1:] if BATCH["weights"][b, p, t] > 0]


def test_sums_means_and_ends():
    found = sequence.answers(LOGPS, BATCH)
    values = np.arange(BATCH["tokens"].size).reshape(BATCH["tokens"].shape).astype(np.float32)
    ends = sequence.at_ends(values, BATCH)
    for b, p, s, places in answers():
        own = [LOGPS[b, p, t - 1] for t in learned(b, p, places)]
        assert found.tokens[b, p, s] == len(own)
        assert float(found.logp[b, p, s]) == pytest.approx(sum(own), rel=1e-5)
        assert float(found.mean_logp[b, p, s]) == pytest.approx(np.mean(own), rel=1e-5)
        assert ends[b, p, s] == values[b, p, places[-1]]


def test_the_tail_is_what_exceeds_the_shorter_answer():
    found = sequence.answers(LOGPS, BATCH, tail=0.25)
    count = {(b, p, s): len(learned(b, p, places)) for b, p, s, places in answers()}
    assert any(count[b, 0, s] != count[b, 1, s] for b, _, s in count)
    for b, p, s, places in answers():
        shortest = min(count[b, 0, s], count[b, 1, s])
        own = np.array([LOGPS[b, p, t - 1] for t in learned(b, p, places)])
        wanted = own[:shortest].sum() + 0.25 * own[shortest:].sum()
        assert float(found.logp[b, p, s]) == pytest.approx(wanted, rel=1e-5)


def test_what_is_inside_has_a_predecessor_of_its_own():
    wanted = np.zeros(LOGPS.shape)
    for b, p, _, places in answers():
        wanted[b, p, places[1:] - 1] = 1
    np.testing.assert_array_equal(sequence.inside(BATCH), wanted)


def test_the_likelihood_is_a_mean_over_tokens():
    mask = np.asarray(sequence.targets(BATCH))
    wanted = -(LOGPS * mask)[:, 0].sum() / mask[:, 0].sum()
    found = sequence.chosen_nll(LOGPS, BATCH).value()
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_metrics_of_pairs():
    rewards, weights = np.float32([[[2, 1], [1, 5]]]), np.float32([[3, 1]])
    found = sequence.pair_metrics(rewards, weights)
    values = {name: float(mean.value()) for name, mean in found.items()}
    assert values == {
        "reward/chosen": 1.75, "reward/rejected": 2.0, "reward/margin": -0.25,
        "reward/accuracy": 0.75,
    }  # fmt: skip
