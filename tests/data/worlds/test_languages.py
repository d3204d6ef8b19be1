import math

import numpy as np
import pytest

from ftjax.data.worlds import languages


def test_entropy_of_a_chain_by_hand():
    # b comes with chance 1/4 after a and 1/2 after b, whatever came before: pi = (2/3, 1/3).
    chain = np.broadcast_to(np.array([[0.75, 0.25], [0.5, 0.5]]), (2, 2, 2))
    pi = languages.stationary(chain)
    np.testing.assert_allclose(pi, [[1 / 2, 1 / 6], [1 / 6, 1 / 6]], atol=1e-12)
    after_a = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    rate = 2 / 3 * after_a + 1 / 3 * math.log(2)
    assert languages.chain_entropy(chain) == pytest.approx(rate, abs=1e-12)
    pair = math.log(2) / 2 + 3 * math.log(6) / 6
    by_row = (pair + 8 * rate) / 10
    assert languages.chain_entropy(chain, length=10) == pytest.approx(by_row, abs=1e-12)


def test_a_chain_without_chance_has_no_entropy():
    chain = np.zeros((2, 2, 2))
    chain[0, 0, 1] = chain[0, 1, 1] = chain[1, 1, 0] = chain[1, 0, 0] = 1.0  # a a b b a a b b
    assert languages.chain_entropy(chain) == pytest.approx(0.0, abs=1e-9)


def test_the_floor_is_the_loss_of_the_true_chain_on_a_long_sample():
    chain = languages.table(4)
    drawn = languages.sample(chain, 200_000, np.random.default_rng(0))
    losses = -np.log(chain[drawn[:-2], drawn[1:-1], drawn[2:]])
    assert losses.mean() == pytest.approx(languages.entropy_floor(4), abs=0.01)


def test_rows_reach_the_floor_of_their_length():
    length, losses = 16, []
    chain, pi = languages.table(2), languages.stationary(languages.table(2))
    for row in languages.make(rows=3000, languages=2, length=length):
        drawn = [languages.SYMBOLS.index(s) for s in row["response"].split()]
        steps = zip(drawn, drawn[1:], drawn[2:], strict=False)
        losses.append(-np.log(pi[drawn[0], drawn[1]]) - sum(np.log(chain[s]) for s in steps))
    floor = languages.entropy_floor(2, length=length)
    assert np.mean(losses) / length == pytest.approx(floor, abs=0.02)


def test_the_stationary_distribution_is_carried_over_by_a_step():
    chain = languages.table(1)
    pi = languages.stationary(chain)
    np.testing.assert_allclose(np.einsum("ab,abc->bc", pi, chain), pi, atol=1e-12)
    assert pi.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(chain.sum(-1), 1.0)


def test_the_dial_moves_the_languages_apart():
    def distance(shared):
        a, b = (languages.table(i, shared=shared) for i in (0, 4))
        return float(np.abs(a - b).sum(-1).mean())

    apart = [distance(shared) for shared in (1.0, 0.75, 0.5, 0.0)]
    assert apart[0] == 0
    assert apart == sorted(apart)
    with pytest.raises(ValueError, match=r"shared=1\.5; expected 0 to 1"):
        languages.make(rows=1, shared=1.5)[0]


def test_rows_name_their_language_first_and_groups_are_disjoint():
    base = {row["language"] for row in languages.make(rows=60)}
    new = {row["language"] for row in languages.make(rows=60, languages="new")}
    assert (base, new) == (set(languages.BASE), set(languages.NEW))
    row = languages.make(rows=1, languages=6, length=10)[0]
    assert row["prompt"] == "Language 6:"
    assert len(row["response"].split()) == 10
