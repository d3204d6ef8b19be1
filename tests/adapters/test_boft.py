"""Several factors of a butterfly: their order matters, and both forms have the same one."""

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.adapters import boft
from ftjax.adapters.lib import protocol
from ftjax.models.base import Linear

EQUATION = "BTD,DF->BTF"


def test_two_factors_do_not_commute_and_are_applied_as_they_are_merged():
    key, w = jax.random.key(0), jnp.asarray(np.random.default_rng(0).normal(size=(16, 6)), "f4")
    site = Linear(EQUATION, (16, 6), None)
    adapter = boft.make(block=4, factors=2)(key, site, w)
    draws = np.random.default_rng(1)
    turned = boft.BOFT(jnp.asarray(draws.normal(size=adapter.q.shape), "f4"), adapter.gain)
    swapped = boft.BOFT(turned.q[::-1], adapter.gain)
    x = jnp.asarray(draws.normal(size=(1, 3, 16)), "f4")
    merged = jnp.einsum(EQUATION, x, turned.merge(EQUATION, w))
    np.testing.assert_allclose(turned.apply(EQUATION, x, w), merged, atol=1e-5)
    assert np.abs(merged - swapped.apply(EQUATION, x, w)).max() > 0.1
    assert protocol.is_adapter(turned)
