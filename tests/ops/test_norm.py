"""RMSNorm against its formula."""

import jax.numpy as jnp
import numpy as np

from ftjax.ops import norm


def test_the_formula():
    x = np.random.default_rng(0).normal(size=(2, 3, 8)) * 5
    scale = np.arange(8.0)
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1) * scale
    got = norm.rms_norm(jnp.asarray(x, jnp.float32), jnp.asarray(scale), eps=0.1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_it_is_computed_in_float32_and_keeps_the_type():
    x = jnp.full((1, 4096), 1e30, jnp.bfloat16)
    small = norm.rms_norm(x * 1e-20, jnp.ones(4096), eps=0.0)
    assert small.dtype == jnp.bfloat16
    np.testing.assert_allclose(small.astype(jnp.float32), 1.0, rtol=1e-2)
