"""The places of FourierFT's coefficients."""

import numpy as np
import pytest

from ftjax.adapters import fourierft


@pytest.mark.parametrize(("made", "summed"), [(3, 4), (1, 12), (5, 5)])
def test_all_places_of_a_matrix_are_drawn_once_each(made, summed):
    u, v = fourierft.positions(made, summed, made * summed, seed=7)
    np.testing.assert_array_equal(np.sort(u * summed + v), np.arange(made * summed))


def test_fewer_places_are_the_first_of_more():
    few, more = (np.stack(fourierft.positions(8, 9, n, seed=3)) for n in (10, 40))
    np.testing.assert_array_equal(few, more[:, :10])
