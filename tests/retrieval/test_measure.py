import math

import numpy as np
import pytest

from ftjax.retrieval import measure

# Three questions over five passages: found first, found third of two, not found.
PLACES = np.array([[2, 0, 1], [4, 3, 0], [1, 2, -1]])
GOLD = [{2}, {0, 1}, {4}]


def test_recall_counts_the_share_of_gold_in_the_first_k():
    np.testing.assert_array_equal(measure.recall(PLACES, GOLD, k=1), [1, 0, 0])
    np.testing.assert_array_equal(measure.recall(PLACES, GOLD, k=3), [1, 0.5, 0])


def test_reciprocal_rank_is_of_the_first_gold_passage():
    np.testing.assert_allclose(measure.reciprocal_rank(PLACES, GOLD), [1, 1 / 3, 0])


def test_ndcg_discounts_by_rank_and_divides_by_the_ideal_ranking():
    ideal = 1 / math.log2(2) + 1 / math.log2(3)
    np.testing.assert_allclose(measure.ndcg(PLACES, GOLD, k=3), [1, 0.5 / ideal, 0])
    best = np.array([[1, 0, 3]])
    np.testing.assert_allclose(measure.ndcg(best, [{0, 1}], k=3), [1])


def test_k_beyond_the_hits_and_beyond_the_gold():
    np.testing.assert_allclose(measure.recall(PLACES, GOLD, k=9), [1, 0.5, 0])
    np.testing.assert_allclose(measure.ndcg(PLACES[:1], GOLD[:1], k=9), [1])


def test_no_hit_is_no_gold():
    assert measure.reciprocal_rank(np.array([[-1, -1]]), [{0}]) == [0]


def test_summary_averages_over_questions():
    found = measure.summary(PLACES, GOLD, at=(1, 3))
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["recall@3"] == pytest.approx(0.5)
    assert found["mrr"] == pytest.approx(4 / 9)
    assert set(found) == {"recall@1", "recall@3", "mrr", "ndcg@1", "ndcg@3"}


@pytest.mark.parametrize("gold", [GOLD[:2], [{2}, set(), {4}]])
def test_questions_without_gold_are_refused(gold):
    with pytest.raises(ValueError, match="gold"):
        measure.recall(PLACES, gold, k=1)
