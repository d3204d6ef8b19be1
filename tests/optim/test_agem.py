"""A-GEM by hand, in the plane."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ftjax.optim import agem


@pytest.mark.parametrize(
    ("old", "weight", "wanted"),
    [
        ([0.0, -2.0], 1.0, [3, 0]),  # against it: what is left is at right angles
        ([0.0, -2.0], 0.5, [3, 2]),
        ([-1.0, 1.0], 1.0, [3, 4]),  # 3 (-1) + 4 > 0: it agrees
        ([-1.0, 0.0], 1.0, [0, 4]),
        ([0.0, 0.0], 1.0, [3, 4]),  # it has no gradient
    ],
)
def test_what_points_against_an_anchor_is_taken_out(old, weight, wanted):
    tx = agem.make(optax.with_extra_args_support(optax.sgd(1.0)), {"old": weight})
    params, g = {"w": jnp.zeros(2)}, {"w": jnp.float32([3, 4])}
    anchors = {"old": lambda params: {"w": jnp.float32(old)}}
    moves, _ = tx.update(g, tx.init(params), params, anchors=anchors)
    np.testing.assert_allclose(-moves["w"], wanted, atol=1e-6)


def test_without_an_anchor_it_is_the_optimizer_itself():
    inner = optax.with_extra_args_support(optax.sgd(0.1))
    assert agem.make(inner, {}) is inner
