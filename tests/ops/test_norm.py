"""RMSNorm and LayerNorm against their formulas."""

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


def test_layer_norm():
    x = np.random.default_rng(0).normal(size=(2, 3, 8)) * 5 + 3
    scale, bias = np.arange(8.0), np.arange(8.0)[::-1]
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1)
    own = [jnp.asarray(a, jnp.float32) for a in (x, scale, bias.copy())]
    got = norm.layer_norm(*own, eps=0.1)
    np.testing.assert_allclose(got, wanted * scale + bias, rtol=1e-4, atol=1e-5)
    far = norm.layer_norm(own[0].astype(jnp.bfloat16) + 1e3, *own[1:], eps=1e-5)
    assert far.dtype == jnp.bfloat16
    assert np.isfinite(far.astype(jnp.float32)).all()
