import jax
import jax.numpy as jnp
import numpy as np

from ftjax.optim import ema


def test_closed_form_after_steps_with_holes():
    params = {"a": jnp.zeros((3,)), "b": None}
    average = ema.init(params)
    for _ in range(5):
        average = ema.update(average, {"a": jnp.ones((3,)), "b": None}, decay=0.9)
    np.testing.assert_allclose(average["a"], 1 - 0.9**5, rtol=1e-6)
    assert average["b"] is None


def test_constant_parameters_are_their_own_average():
    params = {"a": jnp.array([0.1, -3.0, 7.7])}
    average = ema.update(ema.init(params), params, decay=0.999)
    np.testing.assert_array_equal(average["a"], params["a"])


def test_float32_over_bfloat16_and_back():
    params = {"a": jnp.ones((2,), jnp.bfloat16)}
    average = ema.update(ema.init(params), {"a": params["a"] * 2}, decay=0.999)
    assert average["a"].dtype == jnp.float32
    np.testing.assert_allclose(average["a"], 1.001, rtol=1e-6)
    assert ema.cast(average, params)["a"].dtype == jnp.bfloat16


def test_init_owns_its_buffers():
    params = {"a": jnp.arange(4.0)}
    donate = jax.jit(lambda p, e: (p, ema.update(e, p, decay=0.5)), donate_argnums=(0, 1))
    new, average = donate(params, ema.init(params))
    np.testing.assert_array_equal(new["a"], average["a"])
