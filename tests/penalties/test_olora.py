"""O-LoRA's penalty: it sees the overlap with frozen factors, and training it removes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import lora
from ftjax.penalties import olora

PAST = jax.random.normal(jax.random.key(0), (3, 2, 5, 4))
NEW = jax.random.normal(jax.random.key(1), (3, 2, 5, 2))
PENALTY = olora.make(weight=0.5)


def params(a, a0):
    b, b0 = jnp.ones((3, a.shape[-1], 7)), jnp.ones((3, a0.shape[-1], 7))
    return {"model": {}, "adapters": {"q": lora.OffsetLoRA(a, b, a0, b0, jnp.ones(3))}}


def test_it_is_the_squared_overlap_in_every_layer():
    wanted = sum(
        np.square(x.reshape(10, 4).T @ y.reshape(10, 2)).sum()
        for x, y in zip(PAST, NEW, strict=True)
    )
    np.testing.assert_allclose(PENALTY.value(params(NEW, PAST), {}), 0.5 * wanted, rtol=1e-5)


def test_an_orthogonal_subspace_is_free():
    basis = jnp.linalg.qr(jnp.concatenate([PAST, NEW], -1).reshape(3, 10, 6))[0]
    free = basis[..., 4:].reshape(NEW.shape)
    assert float(PENALTY.value(params(free, PAST), {})) == pytest.approx(0, abs=1e-8)


def test_adapters_without_a_past_are_refused():
    plain = {"model": {}, "adapters": {"q": lora.LoRA(NEW, jnp.ones((3, 2, 7)), jnp.ones(3))}}
    with pytest.raises(ValueError, match=r"got olora and no adapter .*adapter\.past"):
        PENALTY.value(plain, {})
