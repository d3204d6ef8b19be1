"""EWC: the three estimates of Fisher's information against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.models.base import Linear
from ftjax.penalties import ewc

V, D, ROWS = 4, 3, 2
W = jax.random.normal(jax.random.key(0), (V, D))
X = jax.random.normal(jax.random.key(1), (ROWS, 3, D))  # what stands at each position
TOKENS = jnp.int32([[0, 1, 3, 2], [2, 2, 0, 1]])
WEIGHTS = jnp.float32([[0, 1, 0, 1], [0, 1, 1, 0]])  # two targets a row


def batch(rows=slice(None)):
    return {"tokens": TOKENS[rows], "weights": WEIGHTS[rows], "x": X[rows]}


def logps(w, row):
    return jax.nn.log_softmax(row["x"] @ w.T)


def found(fisher, seed=0, **options):
    return np.asarray(ewc.information(logps, W, batch(**options), fisher=fisher, seed=seed))


def targets():
    """Yield (row, position, token, p) of every target."""
    for b, t in zip(*np.nonzero(np.asarray(WEIGHTS)), strict=True):
        p = np.asarray(jax.nn.softmax(X[b, t - 1] @ W.T))
        yield b, t - 1, int(TOKENS[b, t]), p


def test_exact_is_the_closed_form_of_a_softmax():
    """Of log p(v) = (W x)_v - log Z: F_ij = p_i (1 - p_i) x_j^2, averaged over targets."""
    wanted = np.mean(
        [np.outer(p * (1 - p), np.square(X[b, t])) for b, t, _, p in targets()], axis=0
    )
    np.testing.assert_allclose(found("exact"), wanted, rtol=1e-5)


def test_empirical_squares_the_gradient_of_each_row():
    """Not of the mean over rows, which is smaller."""
    by_row = np.zeros((ROWS, V, D))
    for b, t, y, p in targets():
        by_row[b] += np.outer(np.eye(V)[y] - p, X[b, t])
    np.testing.assert_allclose(found("empirical"), np.square(by_row).sum(0) / 4, rtol=1e-4)


def test_sampled_comes_near_exact():
    draws = jax.vmap(
        lambda key: ewc.FISHERS["sampled"](
            lambda w: logps(w, {"x": X[0]}), W, None, WEIGHTS[0, 1:], key
        )
    )(jax.random.split(jax.random.key(3), 4000))
    one = found("exact", rows=slice(1))
    np.testing.assert_allclose(np.mean(draws, 0) / 2, one, rtol=0.15, atol=0.02)


def test_an_unknown_estimate_is_refused():
    with pytest.raises(ValueError, match=r"penalties\.ewc\.fisher: got 'sampeld'; .*'sampled'"):
        ewc.make(weight=1.0, linears={}, trains=set(), fisher="sampeld")


def test_the_value_weighs_the_squared_change():
    linears = {"q": Linear("BTD,DF->BTF", (2, 3), (0,))}
    penalty = ewc.make(weight=3.0, linears=linears, trains={"model/q"})
    start, needed = jnp.ones((1, 2, 3)), jnp.arange(6.0).reshape(1, 2, 3)
    arrays = {
        "start": {"model": {"q": start}, "adapters": None},
        "importance": {"model": {"q": needed}},
    }
    got = penalty.value({"model": {"q": start + 2.0}, "adapters": None}, arrays)
    np.testing.assert_allclose(got, 3 / 2 * 15 * 4, rtol=1e-6)
