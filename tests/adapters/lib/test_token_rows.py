"""Trained rows of an embedding: what changes, what is data, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters.lib import protocol, token_rows
from ftjax.ops import linear

W = jax.random.normal(jax.random.key(0), (9, 4))
FOUND = token_rows.add_rows({}, W, ids=(7, 2))["embed"]
ROWS = token_rows.Tokens(FOUND.rows + 1.0, FOUND.ids)


def test_they_start_as_they_are():
    np.testing.assert_array_equal(FOUND.merge(linear.LOOKUP, W), W)
    assert protocol.frozen_paths({"embed": FOUND}, prefix="adapters") == {"adapters/embed/ids"}


def test_only_the_chosen_rows_change_and_lookups_agree():
    merged = ROWS.merge(linear.LOOKUP, W)
    changed = np.flatnonzero((np.asarray(merged) != np.asarray(W)).any(1))
    assert changed.tolist() == [2, 7]
    given = jnp.array([[7, 0, 2], [8, 2, 2]])
    np.testing.assert_array_equal(ROWS.lookup(given, W), merged[given])
    square = lambda take: jax.grad(
        lambda rows: jnp.square(take(token_rows.Tokens(rows, ROWS.ids))).sum()
    )
    fast = square(lambda x: x.lookup(given, W))(ROWS.rows)
    slow = square(lambda x: x.merge(linear.LOOKUP, W)[given])(ROWS.rows)
    np.testing.assert_allclose(fast, slow, rtol=1e-6)


@pytest.mark.parametrize("ids", [(1, 1), (9,), (-1,)])
def test_ids_that_cannot_be(ids):
    with pytest.raises(
        ValueError, match=r"adapter\.token_ids: got .*expected distinct ids below 9"
    ):
        token_rows.add_rows({}, W, ids=ids)


def test_one_adapter_of_the_embedding():
    with pytest.raises(ValueError, match="and an adapter at 'embed'"):
        token_rows.add_rows({"embed": FOUND}, W, ids=(1,))
    with pytest.raises(ValueError, match="expected 'BTV,VD->BTD'"):
        FOUND.merge("BTD,VD->BTV", W)
