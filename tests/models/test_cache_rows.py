"""A cache that has more rows than the batch."""

import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.models import base

SIZES = dict(L=2, B=3, K=1, H=4, S=5, Y=1, G=4)
LETTERS = {"k": "LBKHS", "v": "LBKSH", "state": "LBYG"}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int8])
def test_rows_behind_those_of_the_batch_stay_as_they_are(dtype):
    cache = {
        name: x + 7 for name, x in base.empty_cache(LETTERS, SIZES, dtype).items()
    }  # what is there already
    new = {
        "k": jnp.ones((2, 2, 1, 1, 4)), "v": jnp.ones((2, 2, 1, 1, 4)),
        "state": jnp.ones((2, 2, 1, 4)),
    }  # fmt: skip
    found = base.write_cache(cache, new, LETTERS, jnp.array([[3], [0]]))
    for name, x in found.items():
        assert x.shape == cache[name].shape
        np.testing.assert_array_equal(x[:, 2], cache[name][:, 2])
    np.testing.assert_array_equal(found["state"][:, :2], 1)
    whole = dict(k=[0, 0, 0, slice(None), 3], v=[0, 0, 0, 3])
    for name, at in whole.items():
        scale = found[f"{name}_scale"].min() if dtype == jnp.int8 else 1
        assert (found[name][tuple(at)] * scale).max() == pytest.approx(1, abs=0.01)
        assert found[name][0, 1].min() < found[name][0, 1].max()  # the second row, at slot 0 alone
