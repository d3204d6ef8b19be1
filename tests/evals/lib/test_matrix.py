import functools

import numpy as np
import pytest

from ftjax.evals.lib import matrix

DIAGONAL = [0.98, 0.97, 0.96, 0.98, 0.99]
CHANCE = [0.5] * 5
# Three tasks by hand, every number another one.
R = np.array([[0.1, 0.2, 0.3], [0.9, 0.25, 0.35], [0.7, 0.8, 0.45], [0.6, 0.85, 0.95]])
R[0, 1] = 0.9


def specialist():
    """Knows the last task that it learned, and guesses the others."""
    scores = np.full((6, 5), 0.5)
    scores[1:][np.eye(5, dtype=bool)] = DIAGONAL
    return scores


def test_the_specialist_in_closed_form():
    scores = specialist()
    close = functools.partial(pytest.approx, abs=1e-12)
    assert matrix.avg_accuracy(scores) == close(0.598)
    assert matrix.learning_accuracy(scores) == close(0.976)
    assert matrix.bwt(scores) == close(-0.4725)
    assert matrix.bwt(scores, denominator="all") == close(-0.4725 * 4 / 5)
    assert matrix.fwt(scores, chance=CHANCE) == close(0)
    assert matrix.zero_shot_fwt(scores) == close(0)
    assert matrix.forgetting(scores) == close(0.4725)
    assert matrix.forgetting(scores, reference="learning") == close(0.4725)
    assert matrix.forgetting(scores, reference="base") == close(0)
    assert matrix.intransigence(scores, joint=[1.0] * 5) == close(1 - 0.976)


def test_three_tasks_by_hand():
    close = functools.partial(pytest.approx, abs=1e-12)
    assert matrix.avg_accuracy(R) == close((0.6 + 0.85 + 0.95) / 3)
    assert matrix.learning_accuracy(R) == close((0.9 + 0.8 + 0.95) / 3)
    assert matrix.bwt(R) == close((0.6 - 0.9 + 0.85 - 0.8) / 2)
    assert matrix.fwt(R, chance=[9, 0.05, 0.15]) == close((0.25 - 0.05 + 0.45 - 0.15) / 2)
    assert matrix.zero_shot_fwt(R) == close((0.25 - 0.9 + 0.45 - 0.3) / 2)
    assert matrix.intransigence(R, joint=[1, 1, 1]) == close((0.1 + 0.2 + 0.05) / 3)


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [("past", (0.9 - 0.6 + 0.8 - 0.85) / 2), ("any", (0.9 - 0.6 + 0.9 - 0.85) / 2),
     ("learning", (0.9 - 0.6 + 0.8 - 0.85) / 2), ("base", (0.1 - 0.6 + 0.9 - 0.85) / 2)],
)  # fmt: skip
def test_references_of_forgetting(reference, wanted):
    assert matrix.forgetting(R, reference=reference) == pytest.approx(wanted, abs=1e-12)


def test_the_past_is_its_best_and_not_what_was_learned():
    scores = R.copy()
    scores[2, 0] = 0.97  # the second stage made the first task better still
    assert matrix.forgetting(scores) > matrix.forgetting(scores, reference="learning")


def test_what_was_not_evaluated():
    scores = R.copy()
    scores[0], scores[1, 1:], scores[2, 2] = np.nan, np.nan, np.nan  # only tasks seen
    assert matrix.forgetting(scores) == pytest.approx(matrix.forgetting(R))
    assert matrix.bwt(scores) == matrix.bwt(R)
    with pytest.raises(ValueError, match="got none of task 1, 2, 3 of the base"):
        matrix.forgetting(scores, reference="any")
    with pytest.raises(ValueError, match="got none of task 2, 3 before its stage"):
        matrix.fwt(scores, chance=[0, 0, 0])
    scores[2, 0] = np.nan
    with pytest.raises(ValueError, match="got none of task 1 after stage 2"):
        matrix.forgetting(scores)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 3\); expected \[T\+1, T\]"):
        matrix.bwt(np.eye(3))
    with pytest.raises(ValueError, match="got one task"):
        matrix.bwt(np.ones((2, 1)))
    with pytest.raises(ValueError, match="got one task"):
        matrix.forgetting(np.ones((2, 1)))
    with pytest.raises(ValueError, match="reference: got 'pst'; did you mean 'past'"):
        matrix.forgetting(R, reference="pst")
    with pytest.raises(ValueError, match="denominator: got 'T'"):
        matrix.bwt(R, denominator="T")
    with pytest.raises(ValueError, match="expected one each"):
        matrix.fwt(R, chance=[0.5])
    with pytest.raises(ValueError, match="levels: got 'seeds'"):
        matrix.estimate(matrix.final_terms, [table(0)], levels=["seeds"])


def test_every_measure_has_terms_and_a_direction():
    assert set(matrix.TERMS) == set(matrix.DIRECTIONS)
    for name in matrix.TERMS:
        assert callable(getattr(matrix, name))


def table(seed, n=(40, 60), shift=0.0):
    rng = np.random.default_rng(seed)
    easy = [rng.normal(size=k) for k in n]
    return [[easy[j] + s - 2 * j + shift for j in range(2)] for s in range(3)]


def test_from_examples():
    scores = matrix.from_examples([[None, [1, 0]], [[1, 1, 0], [1, 1]], [[0, 0, 0], [1, 0]]])
    np.testing.assert_array_equal(scores, [[np.nan, 0.5], [2 / 3, 1], [0, 0.5]])


def test_examples_are_paired_over_stages():
    # What makes an example hard is the same in all stages, so that a difference is certain.
    found = matrix.estimate(matrix.backward_terms, [table(0)], resamples=50)
    assert found == pytest.approx((1.0, 1.0, 1.0, 100))
    wide = matrix.estimate(matrix.final_terms, [table(0)], resamples=200)
    assert wide.low < wide.value < wide.high
    assert wide.value == pytest.approx(matrix.avg_accuracy(matrix.from_examples(table(0))))


def test_runs_and_tasks_are_a_level_of_their_own():
    runs = [table(0, shift=shift) for shift in (-3, 0, 3)]
    options = dict(resamples=300)
    width = lambda *levels: np.subtract(
        *matrix.estimate(matrix.final_terms, runs, levels=levels, **options)[2:0:-1]
    )
    assert width() == 0
    assert width("examples") < width("examples", "runs")
    assert width("runs") == pytest.approx(6, abs=0.1)  # three draws of one end are 1 in 27
    assert width("tasks") == pytest.approx(2, abs=0.5)


def test_examples_that_do_not_pair_up():
    with pytest.raises(ValueError, match=r"got 2 with \[\[40\], \[50, 60\]\] examples by task"):
        matrix.estimate(matrix.final_terms, [table(0), table(0, n=(40, 50))])
    with pytest.raises(ValueError, match="got 0 with"):
        matrix.estimate(matrix.final_terms, [])


def test_runs_in_other_orders():
    # The second run learned the second task first; its table has the same columns.
    one = [[np.full(3, x), np.full(5, y)] for x, y in ((0, 0), (0.9, 0.1), (0.5, 0.8))]
    two = [[np.full(3, x), np.full(5, y)] for x, y in ((0, 0), (0.2, 0.7), (0.6, 0.4))]
    estimate = lambda terms: matrix.estimate(
        terms, [one, two], orders=[(0, 1), (1, 0)], levels=["examples"], resamples=5
    )
    assert estimate(matrix.learned_terms).value == pytest.approx((0.9 + 0.8 + 0.7 + 0.6) / 4)
    assert estimate(matrix.backward_terms).value == pytest.approx((0.5 - 0.9 + 0.4 - 0.7) / 2)
    assert estimate(matrix.learned_terms).n == 8
