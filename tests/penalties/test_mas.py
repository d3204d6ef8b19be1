"""MAS against the closed form of a linear map."""

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.penalties import mas

W = jax.random.normal(jax.random.key(0), (4, 3))
X = jax.random.normal(jax.random.key(1), (2, 3, 3))  # what stands at each position
WEIGHTS = jnp.float32([[0, 1, 0, 1], [0, 1, 1, 0]])  # two targets a row


def test_it_is_the_mean_absolute_slope_of_the_squared_outputs():
    """Of z = W x: d |z|^2 / dW = 2 z x^T, added up over the targets of a row."""
    batch = {"tokens": jnp.zeros((2, 4), jnp.int32), "weights": WEIGHTS, "x": X}
    got = mas.sensitivity(lambda w, row: row["x"] @ w.T, W, batch)
    slopes = np.zeros((2, 4, 3))
    for b, t in zip(*np.nonzero(np.asarray(WEIGHTS)), strict=True):
        slopes[b] += 2 * np.outer(W @ X[b, t - 1], X[b, t - 1])
    np.testing.assert_allclose(got, np.abs(slopes).sum(0) / 4, rtol=1e-5)
