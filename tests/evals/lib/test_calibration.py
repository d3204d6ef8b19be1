import numpy as np
import pytest

from ftjax.evals.lib import calibration


def test_brier_in_closed_form():
    certain, half = [[1.0, 0.0]], [[0.5, 0.5]]
    assert calibration.brier(certain, [0]) == 0
    assert calibration.brier(certain, [1]) == 2
    assert calibration.brier(half, [1]) == 0.5
    assert calibration.brier(certain + half, [1, 0]) == 1.25
    assert calibration.brier([[0.7, 0.2, 0.1]], [1]) == pytest.approx(0.49 + 0.64 + 0.01)


def test_ece_by_hand():
    # Confident four are right half of the time, the others always: gaps 0.4 and 0.4.
    p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 4)
    labels = [0, 1, 0, 1, 1, 1, 1, 1]
    assert calibration.ece(p, labels, bins=2) == pytest.approx(0.4)
    assert calibration.ece(p, labels, bins=1) == pytest.approx(0.0)  # they cancel
    shuffled = np.random.default_rng(0).permutation(8)
    assert calibration.ece(p[shuffled], np.array(labels)[shuffled], bins=2) == pytest.approx(0.4)


def test_ece_of_a_calibrated_model_vanishes_and_bins_are_equally_full():
    rng = np.random.default_rng(0)
    top = rng.uniform(0.5, 1, size=60_000)
    labels = (rng.random(60_000) > top).astype(int)
    p = np.stack([top, 1 - top], 1)
    assert calibration.ece(p, labels) < 0.01
    assert calibration.ece(p, 1 - labels) > 0.4
    # 3 of 4 in one bin, as they are alike; by width or by mass, their gaps count by their number.
    assert calibration.ece([[1.0, 0.0]] * 4, [0, 0, 0, 1], bins=4) == pytest.approx(0.25)


def test_bins_have_equally_many():
    p = [[0.99, 0.01], [0.98, 0.02], [0.97, 0.03], [0.6, 0.4]]
    # Halves (0.6, 0.97) and (0.98, 0.99); equal width would put the first alone.
    wanted = (abs(1.57 - 1) + abs(1.97 - 2)) / 4
    assert calibration.ece(p, [0, 0, 1, 0], bins=2) == pytest.approx(wanted)


def test_from_logps():
    np.testing.assert_allclose(calibration.from_logps(np.log([[0.02, 0.06]])), [[0.25, 0.75]])
    np.testing.assert_allclose(calibration.from_logps([[-5000.0, -5000.0]]), [[0.5, 0.5]])


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"expected \[n, C\] and \[n\]"):
        calibration.brier([0.5, 0.5], [0])
    with pytest.raises(ValueError, match="normalise log-likelihoods"):
        calibration.ece([[-1.0, -2.0]], [0])
