"""Laws of every penalty file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ftjax.penalties
from ftjax.adapters import adalora, lora
from ftjax.core import tree
from tests.laws import subjects

PENALTIES = subjects.modules_with(ftjax.penalties, "make")


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def params():
    """Parameters with all that a penalty may look for."""
    svd = adalora.AdaLoRA(draw(0, 2, 6, 3), draw(1, 2, 3), draw(2, 2, 3, 5), jnp.ones(2))
    tasks = lora.OffsetLoRA(
        draw(3, 2, 6, 3), draw(4, 2, 3, 5), draw(5, 2, 6, 4), draw(6, 2, 4, 5), jnp.ones(2)
    )
    sites = {"blocks": {"attn": {"q": svd, "v": tasks}}}
    return {"model": {"blocks": {"attn": {"q": draw(7, 2, 6, 5)}}}, "adapters": sites}


def test_every_penalty_has_an_example():
    assert PENALTIES
    assert subjects.modules_with(ftjax.penalties, "EXAMPLE") == PENALTIES


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_is_a_finite_scalar_that_scales_with_its_weight(name):
    module = PENALTIES[name]
    value = module.make(**module.EXAMPLE)(params())
    assert (value.shape, value.dtype) == ((), jnp.float32)
    assert np.isfinite(value)
    assert value > 0
    double = module.make(**module.EXAMPLE | {"weight": 2 * module.EXAMPLE["weight"]})(params())
    np.testing.assert_allclose(double, 2 * value, rtol=1e-6)
    assert module.make(**module.EXAMPLE | {"weight": 0.0})(params()) == 0


@pytest.mark.parametrize("name", PENALTIES)
def test_its_gradient_is_finite_and_points_uphill_on_its_own_paths(name):
    module = PENALTIES[name]
    penalty, start = module.make(**module.EXAMPLE), params()
    gradient = jax.grad(penalty)(start)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    touched = {path for path, leaf in tree.paths(gradient).items() if leaf.any()}
    assert touched
    shaken = tree.map_with_paths(lambda p, x: x if p in touched else x + 1, start)
    np.testing.assert_array_equal(penalty(shaken), penalty(start))
    lower = jax.tree.map(lambda x, g: x - 1e-3 * g, start, gradient)
    assert penalty(lower) < penalty(start)
