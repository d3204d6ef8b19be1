"""Fits over runs, by hand."""

import numpy as np
import pytest

from ftjax.evals.lib import fit


def test_a_parabola_is_found():
    x = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
    found = fit.quadratic(x, 2 - 3 * x + 0.5 * x**2)
    np.testing.assert_allclose(found.coefficients, (2, -3, 0.5), rtol=1e-9)
    assert found.r2 == pytest.approx(1)
    assert (found.n, found.spearman) == (5, pytest.approx(-1))
    np.testing.assert_allclose(found([0, 2]), (2, -2), atol=1e-9)


def test_what_is_explained_by_hand():
    # Symmetric about x = 0: the parabola is flat in the middle at 0, 2 + 0, 0, ...; fit by hand.
    x, y = [-1, -1, 1, 1, 0, 0], [0, 2, 0, 2, 0, 2]
    found = fit.quadratic(x, y)
    assert found.r2 == pytest.approx(0)  # the mean at every x is 1
    assert found.spearman == pytest.approx(0)
    assert found.coefficients == pytest.approx((1, 0, 0))


def test_ranks_do_not_ask_for_a_line():
    x = np.array([1.0, 2, 3, 4, 5])
    assert fit.quadratic(x, np.exp(3 * x)).spearman == pytest.approx(1)
    assert fit.quadratic(x, np.exp(3 * x)).r2 < 1


def test_equals_have_their_mean_rank():
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4: covariance 4.5 / sqrt(4.5 * 5).
    assert fit.spearman([7, 7, 8, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2, 4]), ([1] * 4, range(4)),
                                      (range(4), [1] * 4)])  # fmt: skip
def test_what_has_no_fit(x, y):
    assert fit.quadratic(x, y) is None


def test_what_is_refused():
    with pytest.raises(ValueError, match="expected finite numbers in pairs"):
        fit.quadratic([1, 2, 3, 4], [1, 2, 3, float("nan")])
