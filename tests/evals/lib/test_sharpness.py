import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.evals.lib import sharpness

# L = (3 x^2 - 5 y^2 + z^2) / 2, of which everything is known.
SLOPES = {"a": jnp.asarray([3.0, -5.0]), "b": jnp.asarray(1.0)}
AT = {"a": jnp.asarray([1.0, 0.0]), "b": jnp.asarray(2.0)}


def quadratic(w):
    return sum(
        (s * x * x).sum() / 2 for s, x in zip(*map(jax.tree.leaves, (SLOPES, w)), strict=True)
    )


def test_ascent_in_closed_form():
    # g = (3, 0, 2): the step raises L by rho |g| + rho^2 g H g / (2 |g|^2).
    rho, norm = 0.1, np.sqrt(13)
    wanted = rho * norm + rho**2 * (27 + 4) / (2 * 13)
    assert sharpness.ascent(quadratic, AT, radius=rho) == pytest.approx(wanted, rel=1e-5)
    assert sharpness.ascent(quadratic, AT, radius=0.0) == 0


def test_at_a_flat_point():
    nowhere = jax.tree.map(jnp.zeros_like, AT)
    assert sharpness.ascent(quadratic, nowhere, radius=0.1) == 0


def test_the_curvature_is_the_largest_eigenvalue_with_its_sign():
    found = sharpness.curvature(quadratic, AT, jax.random.key(0), iterations=40)
    assert found == pytest.approx(-5, rel=1e-4)
