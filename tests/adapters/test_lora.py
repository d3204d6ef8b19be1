"""LoRA: scales, initial values, dropout, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import lora
from ftjax.models.base import Linear

EQUATION = "BTNH,NHD->BTD"
W = jax.random.normal(jax.random.key(0), (4, 8, 16))
SITE = Linear(EQUATION, W.shape, None)


def make(**options):
    return lora.make(**dict(rank=4, alpha=8.0) | options)(jax.random.key(1), SITE, W)


def test_the_scale():
    assert float(make().scale) == 2.0
    assert float(make(rslora=True).scale) == 4.0
    assert float(make(rank=16).scale) == 0.5


def test_initial_values():
    adapter = make(rank=64)
    assert not adapter.b.any()
    bound = 32**-0.5  # the fan in is N * H
    assert float(jnp.abs(adapter.a).max()) <= bound
    assert float(jnp.abs(adapter.a).max()) > 0.95 * bound
    assert float(adapter.a.std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_dropout_acts_on_the_low_rank_branch_with_a_key_only():
    adapter = make(dropout=0.5)
    adapter = jax.tree.map(lambda x: x + 0.3, adapter)
    x = jax.random.normal(jax.random.key(2), (2, 3, 4, 8))
    plain = adapter.apply(EQUATION, x, W)
    np.testing.assert_allclose(
        plain, jnp.einsum(EQUATION, x, adapter.merge(EQUATION, W)), rtol=1e-4, atol=1e-4
    )
    keys = jax.random.split(jax.random.key(3), 200)
    draws = jax.vmap(lambda key: adapter.apply(EQUATION, x, W, key))(keys)
    assert float(draws.std(0).min()) > 0
    base = jnp.einsum(EQUATION, x, W)
    spread = np.asarray(draws.std(0)) / len(keys) ** 0.5
    assert (np.abs(draws.mean(0) - plain) < 5 * spread).all()
    zero_up = jax.tree.map(lambda x: x, adapter)
    zero_up = lora.LoRA(zero_up.a, 0 * zero_up.b, zero_up.scale, 0.5)
    np.testing.assert_allclose(zero_up.apply(EQUATION, x, W, keys[0]), base, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [dict(rank=0), dict(dropout=1.0), dict(dropout=-0.1)])
def test_what_is_refused(options):
    with pytest.raises(ValueError, match=r"adapter\.(rank|dropout): got"):
        make(**options)
