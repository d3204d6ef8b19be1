"""SAM by hand, on a quadratic."""

import jax.numpy as jnp
import numpy as np
import optax

from ftjax.optim import optimizer as chain
from ftjax.optim import sam

CURVE = np.float32([4.0, 1.0])  # loss = sum CURVE w^2 / 2
W = np.float32([1.0, -2.0])


def gradient(params):
    return {"w": jnp.asarray(CURVE) * params["w"]}


def step(tx):
    params = {"w": jnp.asarray(W)}
    given = dict(gradient=gradient, anchors={})
    return np.asarray(tx.update(gradient(params), tx.init(params), params, **given)[0]["w"])


def test_the_gradient_is_that_from_uphill():
    g = CURVE * W
    wanted = CURVE * (W + 0.3 * g / np.linalg.norm(g))
    tx = chain.make(
        name="sgd", learning_rate=0.1, schedule="constant", total_steps=2, sam=dict(rho=0.3)
    ).tx
    np.testing.assert_allclose(step(tx), -0.1 * wanted, rtol=1e-5)


def test_at_0_it_is_the_optimizer_itself():
    inner = optax.with_extra_args_support(optax.sgd(0.1))
    assert sam.make(inner, rho=0.0) is inner


def test_where_nothing_slopes_nothing_moves():
    tx = sam.make(optax.with_extra_args_support(optax.sgd(0.1)), rho=0.3)
    params = {"w": jnp.zeros(2)}
    moves, _ = tx.update(gradient(params), tx.init(params), params, gradient=gradient)
    np.testing.assert_array_equal(moves["w"], [0, 0])
