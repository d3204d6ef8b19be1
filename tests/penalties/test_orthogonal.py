"""AdaLoRA's penalty against its definition, matrix by matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import adalora, lora
from ftjax.penalties import orthogonal

A = jax.random.normal(jax.random.key(0), (3, 2, 5, 4))
B = jax.random.normal(jax.random.key(1), (3, 4, 7))
ADAPTER = adalora.AdaLoRA(A, jnp.ones((3, 4)), B, jnp.ones(3))
PENALTY = orthogonal.make(weight=0.5)


def params(adapter):
    return {"model": {}, "adapters": {"blocks": {"q": adapter}}}


def test_it_is_the_mean_distance_from_orthonormal():
    distances = []
    for a, b in zip(np.asarray(A).reshape(3, 10, 4), np.asarray(B), strict=True):
        distances += [np.linalg.norm(a.T @ a - np.eye(4)), np.linalg.norm(b @ b.T - np.eye(4))]
    got = PENALTY.value(params(ADAPTER), {})
    np.testing.assert_allclose(got, 0.5 * np.mean(distances), rtol=1e-5)


def test_orthonormal_factors_cost_nothing_and_have_a_finite_gradient():
    a = jnp.linalg.qr(A.reshape(3, 10, 4))[0].reshape(A.shape)
    b = jnp.linalg.qr(B.swapaxes(1, 2))[0].swapaxes(1, 2)
    flat = adalora.AdaLoRA(a, ADAPTER.e, b, ADAPTER.scale)
    assert float(PENALTY.value(params(flat), {})) == pytest.approx(0, abs=1e-5)
    assert all(
        np.isfinite(g).all() for g in jax.tree.leaves(jax.grad(PENALTY.value)(params(flat), {}))
    )


def test_adapters_without_values_are_refused():
    with pytest.raises(ValueError, match=r"got orthogonal and no adapter .*'adalora'"):
        PENALTY.value(params(lora.LoRA(A, B, jnp.ones(3))), {})
