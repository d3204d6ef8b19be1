import numpy as np
import pytest

from ftjax.decide import significance, verdict

RNG = np.random.default_rng(0)
HARD = RNG.random((1, 200))


def answers(rate, *, seeds=1, n=200):
    """Scores of 0 and 1 with this mean; an item that is hard is hard for every arm."""
    noise = np.random.default_rng(int(1000 * rate)).normal(0, 0.05, (seeds, n))
    return (HARD[:, :n] + noise < rate).astype(float)


def test_holms_correction():
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([0.5, 0.001, 0.9, 0.4]) == pytest.approx([1, 0.004, 1, 1])
    assert significance.holm([0.2]) == [0.2]
    assert significance.holm([]) == []


def test_p_values_count_the_smaller_side_twice_and_the_observation():
    assert significance.p_value(np.array([1.0] * 99)) == 2 / 100
    assert significance.p_value(np.array([-1.0] * 97 + [1.0] * 2)) == 2 * 3 / 100
    assert significance.p_value(np.zeros(99)) == 1


def test_draws_have_the_mean_and_spread_of_their_formula():
    scores = {"a": np.array([[0.0, 1, 1, 1], [1, 1, 1, 1]]), "b": np.array([[0.0, 0, 1, 0]])}
    found = significance.draws(scores, seed=1, resamples=40_000)
    assert found["b"].mean() == pytest.approx(0.25, abs=0.005)
    assert found["b"].var() == pytest.approx(0.25 * 0.75 / 4, rel=0.05)
    # Over seeds: their means 0.75 and 1 differ, and two are drawn with replacement.
    assert found["a"].mean() == pytest.approx(0.875, abs=0.005)
    # Given the seeds' shares v, item 1 weighs v; E var = E[v^2] * 3/64, var E = (1/4)^2 / 8.
    expected = 0.375 * (0.25 * 0.75 / 4) + 0.25**2 / 8
    assert found["a"].var() == pytest.approx(expected, rel=0.05)


def test_blocks_of_resamples_give_what_one_gives(monkeypatch):
    scores = {"a": answers(0.5, seeds=2), "b": answers(0.6)}
    whole = significance.draws(scores, seed=3, resamples=50)
    monkeypatch.setattr(significance, "BLOCK", 200 * 7)
    for arm, values in significance.draws(scores, seed=3, resamples=50).items():
        np.testing.assert_allclose(values, whole[arm], rtol=1e-12)


def test_clusters_are_drawn_whole():
    """Two questions about each of n facts, answered alike: the variance is that of n questions."""
    one = np.array([[1.0, 0, 0, 0, 0, 1, 1, 1, 0, 0]])
    both, names = np.repeat(one, 2, axis=1), np.repeat([7, 3, 9, 1, 0, 2, 4, 5, 6, 8], 2)
    variance = lambda own, clusters: significance.draws(
        {"a": own}, seed=1, resamples=40_000, clusters=clusters
    )["a"].var()
    assert variance(one, None) == pytest.approx(0.4 * 0.6 / 10, rel=0.05)
    assert variance(both, names) == pytest.approx(0.4 * 0.6 / 10, rel=0.05)
    assert variance(both, None) == pytest.approx(0.4 * 0.6 / 20, rel=0.05)
    # Where the two are answered apart, their mean is what varies: here not at all.
    apart = np.tile([0.0, 1.0], (1, 10))
    assert variance(apart, names) == pytest.approx(0, abs=1e-12)


def test_a_resample_has_the_mean_of_the_items_that_were_drawn():
    """Clusters of one and of three: by 0, 1 or 2 draws of the first, 1, 1/4 and 0."""
    found = significance.draws(
        {"a": np.array([[1.0, 0, 0, 0]])}, seed=0, resamples=2_000, clusters=[0, 1, 1, 1]
    )["a"]
    assert set(np.round(found, 9)) == {0, 0.25, 1}
    assert (found == 0.25).mean() == pytest.approx(0.5, abs=0.05)


def test_a_verdict_knows_that_questions_hang_together():
    """A lead on two of six facts: each asked ten times, it is no surer than asked once."""
    lead = np.array([[1.0, 1, 0, 0, 0, 0]])
    scores = {"a": np.zeros((1, 60)), "b": np.repeat(lead, 10, axis=1)}
    costs, facts = {"a": 1.0, "b": 2.0}, np.repeat(np.arange(6), 10)
    alone, together = (verdict.decide(scores, costs, clusters=own) for own in (None, facts))
    assert (alone.chosen, alone.survived) == ("b", 10)
    assert together.chosen == "a"
    low, high = together.estimates["b"][1:3]
    assert (low, high) == (0, pytest.approx(2 / 3))


def test_the_same_items_are_drawn_for_all_arms():
    scores = {"a": answers(0.5), "b": answers(0.5), "worse": answers(0.5) - 0.1}
    found = significance.draws(scores, seed=0, resamples=500)
    np.testing.assert_array_equal(found["a"], found["b"])
    np.testing.assert_allclose(found["a"] - found["worse"], 0.1)
    pairs = significance.differences(scores, found)
    assert pairs["a", "b"] == (0, 0, 0, 1, 1)
    assert pairs["a", "worse"].value == pytest.approx(0.1)
    assert significance.is_worse(pairs, "worse", "a")
    assert not significance.is_worse(pairs, "a", "worse")
    assert not significance.is_worse(pairs, "a", "b")


def test_a_difference_needs_its_interval_and_holm():
    resolved = lambda *numbers: significance.Difference(*numbers).is_resolved
    assert resolved(0.1, 0.01, 0.2, 0.001, 0.01)
    assert resolved(-0.1, -0.2, -0.01, 0.001, 0.01)
    assert not resolved(0.1, 0.01, 0.2, 0.02, 0.2)
    assert not resolved(0.1, -0.01, 0.2, 0.001, 0.01)


def test_arms_with_equal_answers_give_the_cheapest():
    scores = {"dear": answers(0.7), "cheap": answers(0.7)}
    found = verdict.decide(scores, {"dear": 5.0, "cheap": 2.0})
    assert (found.chosen, found.candidates, found.survived) == ("cheap", ("cheap", "dear"), 10)
    assert found.is_resolved


def test_a_clearly_better_arm_is_taken_whatever_it_costs():
    scores = {"weak": answers(0.3), "strong": answers(0.9)}
    found = verdict.decide(scores, {"weak": 1.0, "strong": 1e9})
    assert (found.chosen, found.best, found.candidates) == ("strong", "strong", ("strong",))
    assert found.survived == 10
    assert found.estimates["strong"].value == pytest.approx(scores["strong"].mean())
    low, high = found.estimates["strong"][1:3]
    assert low < found.estimates["strong"].value < high


def test_a_small_lead_is_not_worth_its_cost():
    better = answers(0.7).copy()
    better[0, np.flatnonzero(better[0] == 0)[:2]] = 1  # two items of 200
    found = verdict.decide({"a": answers(0.7), "b": better}, {"a": 1.0, "b": 2.0})
    assert (found.best, found.chosen) == ("b", "a")


def test_a_choice_that_hangs_on_the_items_is_not_resolved():
    n = 40
    base = np.zeros((1, n))
    counts = []
    for count in (1, 5, 6, 30):
        lead = np.where(np.arange(n) < count, 1.0, 0.0)[None]
        counts.append(verdict.decide({"a": base, "b": lead}, {"a": 1.0, "b": 2.0}).survived)
    assert counts[0] == counts[-1] == 10
    assert min(counts[1:3]) < verdict.SURVIVES


def test_many_arms_can_be_worse_in_every_resample():
    """Of 91 pairs the smallest p of few resamples would not pass Holm's correction."""
    scores = {f"weak{i}": answers(0.1) for i in range(13)} | {"strong": answers(0.9)}
    found = verdict.decide(scores, {arm: float(i) for i, arm in enumerate(scores)})
    assert (found.chosen, found.candidates, found.survived) == ("strong", ("strong",), 10)


def test_seeds_that_differ_widen_the_interval():
    same = np.repeat(answers(0.5), 3, axis=0)
    apart = np.concatenate([answers(0.3), answers(0.5), answers(0.7)])
    widths = []
    for own in (same, apart):
        found = significance.draws({"a": own}, seed=0)
        estimate = significance.estimates({"a": own}, found)["a"]
        widths.append(estimate.high - estimate.low)
    assert widths[1] > 1.5 * widths[0]


def test_arms_on_other_items_are_refused():
    with pytest.raises(ValueError, match="the same items"):
        significance.draws({"a": np.zeros((1, 3)), "b": np.zeros((1, 4))}, seed=0)
    with pytest.raises(ValueError, match="one seed at least"):
        significance.draws({"a": np.zeros((0, 3))}, seed=0)
