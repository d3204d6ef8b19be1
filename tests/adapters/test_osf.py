"""OSF by hand: what is high stays, whatever trains."""

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.adapters import osf
from ftjax.models.base import Linear
from tests.laws import subjects

SITE = Linear("BTD,DF->BTF", (4, 5), None)


def test_of_a_diagonal_the_low_corner_alone_changes():
    w = jnp.zeros((4, 5)).at[jnp.arange(4), jnp.arange(4)].set(jnp.float32([4, 3, 2, 1]))
    adapter = subjects.randomised(osf.make(keep=0.5)(jax.random.key(0), SITE, w))
    change = np.asarray(adapter.merge(SITE.equation, w) - w)
    # Inputs 0, 1 and outputs 0, 1 are the high directions; output 4 is in no direction of w.
    np.testing.assert_allclose(change[:2], 0, atol=1e-5)
    np.testing.assert_allclose(change[:, :2], 0, atol=1e-5)
    assert np.abs(change[2:, 2:]).min() > 1e-3


def test_the_part_that_stays_is_the_share_of_the_directions():
    w = jax.random.normal(jax.random.key(1), (4, 5))
    rank = lambda keep: osf.make(keep=keep)(jax.random.key(0), SITE, w).a.shape[-1]
    assert [rank(keep) for keep in (0.0, 0.25, 0.5, 0.99)] == [4, 3, 2, 1]
