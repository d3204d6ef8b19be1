"""Exact averages."""

import jax
import numpy as np
import pytest

from ftjax.core.mean import Mean


def test_adding_weighs_by_weight():
    x, w = np.arange(6.0), np.array([1.0, 0, 2, 3, 0.5, 1])
    parts = [Mean.of(x[i:j], w[i:j]) for i, j in ((0, 1), (1, 4), (4, 6))]
    total = parts[0] + parts[1] + parts[2]
    assert float(total.value()) == pytest.approx(np.average(x, weights=w))
    assert float(total.weight) == pytest.approx(w.sum())


def test_without_weights_every_value_counts_one():
    assert float((Mean.of(np.array([1, 2])) + Mean.of(np.array([6]))).value()) == 3.0


def test_nothing_counted_is_zero_and_has_no_nan_gradient():
    value = lambda x: Mean.of(x, 0 * x).value()
    x = np.ones(3, np.float32)
    assert float(value(x)) == 0
    assert not np.isnan(jax.grad(value)(x)).any()


def test_scaling_keeps_the_weight():
    scaled = Mean.of(np.array([2.0, 4.0])).scale(0.5)
    assert (float(scaled.value()), float(scaled.weight)) == (1.5, 2.0)


def test_it_is_a_pytree():
    doubled = jax.tree.map(lambda x: 2 * x, Mean.of(np.array([2.0, 4.0])))
    assert (float(doubled.total), float(doubled.weight)) == (12.0, 4.0)
