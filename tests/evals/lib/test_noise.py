import math

import numpy as np
import pytest

from ftjax.evals.lib import noise


def test_the_floor_of_two_runs_in_closed_form():
    # n = 2: s = |x - y| / sqrt 2, and Student's t with one degree is Cauchy's tan(pi (p - 1/2)).
    found = noise.floor([1.0, 1.5])
    assert found.value == pytest.approx(math.tan(math.pi * 0.475) * 0.5)
    assert found[1:] == (0.5, 2)


def test_the_floor_of_three_runs_in_closed_form():
    # With two degrees, t(p) = (2p - 1) sqrt(2 / (4 p (1 - p))).
    quantile = 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    assert noise.floor([0, 1, 2]).value == pytest.approx(quantile * math.sqrt(2))
    wide, narrow = (noise.floor([0, 1, 2], level=level).value for level in (0.95, 0.5))
    assert narrow == pytest.approx(0.5 * math.sqrt(2 / 0.75) * math.sqrt(2))
    assert narrow < wide


def test_it_covers_the_difference_of_two_more_runs():
    rng = np.random.default_rng(0)
    hits = []
    for scores in rng.normal(size=(2000, 6)):
        difference = scores[4] - scores[5]
        hits.append(not noise.is_resolved(difference, noise.floor(scores[:4])))
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_what_is_not_resolved():
    floor = noise.Floor(0.2, 0.1, 3)
    assert noise.is_resolved(-0.21, floor)
    assert not noise.is_resolved(0.2, floor)
    assert not noise.is_resolved(float("nan"), floor)
    assert noise.verdict(-0.25, floor) == "-0.250"
    assert noise.verdict(-0.15, floor) == "not resolved (|-0.150| <= 0.200, n=3)"
    assert noise.floor([0.5, 0.5]) == (0, 0, 2)


@pytest.mark.parametrize("scores", [[], [0.5], [0.5, math.nan], [0.5, math.inf]])
def test_too_few_scores_are_an_error(scores):
    with pytest.raises(ValueError, match="expected at least two finite ones"):
        noise.floor(scores)


def test_means_over_runs_have_a_lower_floor():
    one, four = (noise.floor([0, 1, 2], runs=runs).value for runs in (1, 4))
    assert four == pytest.approx(one / 2)
    rng = np.random.default_rng(0)
    hits = []
    for scores in rng.normal(size=(2000, 12)):
        difference = scores[4:8].mean() - scores[8:].mean()
        hits.append(not noise.is_resolved(difference, noise.floor(scores[:4], runs=4)))
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)
