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


def test_a_scale_around_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8)), jnp.float32)
    scale = jnp.arange(8.0)
    got = norm.rms_norm_around_one(x, scale - 1, eps=0.1)
    for plain in (norm.rms_norm, norm.rms_norm_wide):
        np.testing.assert_allclose(got, plain(x, scale, eps=0.1), rtol=1e-5)


def test_wide_norms_round_once():
    """In bfloat16 the plain norm rounds before the product with the scale as well."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64)), jnp.bfloat16)
    scale = jnp.full(64, 1.37, jnp.bfloat16)
    exact = norm.rms_norm_wide(x.astype(jnp.float32), scale.astype(jnp.float32), eps=0.1)
    wide, plain = (f(x, scale, eps=0.1) for f in (norm.rms_norm_wide, norm.rms_norm))
    np.testing.assert_array_equal(wide, exact.astype(jnp.bfloat16))
    assert (wide != plain).any()


def test_it_is_computed_in_float32_and_keeps_the_type():
    x = jnp.full((1, 4096), 1e30, jnp.bfloat16)
    small = norm.rms_norm(x * 1e-20, jnp.ones(4096), eps=0.0)
    assert small.dtype == jnp.bfloat16
    np.testing.assert_allclose(small.astype(jnp.float32), 1.0, rtol=1e-2)
