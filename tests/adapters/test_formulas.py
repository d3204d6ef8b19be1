"""Formulas of adapters that the laws see at sizes where they cannot tell them from others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import loha, lokr, lora
from ftjax.adapters.lib import matrix, rotation
from ftjax.ops import linear

draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)


def test_a_lookup_is_a_row_of_the_merged_embedding():
    w, tokens = draw(0, 7, 5), jnp.int32([[3, 0], [6, 3]])
    adapter = lora.LoRA(draw(1, 7, 2), draw(2, 2, 5), jnp.float32(3.0), 0.0)
    rows = adapter.merge(linear.LOOKUP, w)[tokens]
    np.testing.assert_allclose(adapter.lookup(tokens, w), rows, rtol=1e-5, atol=1e-5)


def test_dropout_drops_its_share_and_scales_up_the_rest():
    x = jnp.ones((100, 100))
    found = lora._dropout(x, 0.2, jax.random.key(0))
    assert float((found == 0).mean()) == pytest.approx(0.2, abs=0.02)
    np.testing.assert_allclose(np.unique(found), [0, 1.25], rtol=1e-6)


@pytest.mark.parametrize("equation", ["BTD,DF->BTF", "EBD,EDF->EBF"])
def test_loha_of_a_low_rank_is_its_merged_weight(equation):
    """The product of two matrices of rank 2 is one of rank 4: its columns are pairs of theirs."""
    lead = (2,) if equation.startswith("E") else ()
    w, x = draw(0, *lead, 24, 20), draw(5, *(lead or (3,)), 6, 24)
    arrays = [draw(n, *lead, *shape) for n, shape in enumerate([(24, 2), (2, 20)] * 2, 1)]
    shared = [jnp.moveaxis(b, 0, 1) if lead else b for b in arrays[1::2]]  # [R, E, F]
    adapter = loha.LoHa(arrays[0], shared[0], arrays[2], shared[1], jnp.float32(0.5))
    assert matrix.low(equation, w.shape, 4)
    merged = jnp.einsum(equation, x, adapter.merge(equation, w))
    np.testing.assert_allclose(adapter.apply(equation, x, w), merged, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("rank", "shapes"), [
    (4, ((10, 4), (4, 6))), (5, ((10, 6),)), (7, ((10, 6),)),
])  # fmt: skip
def test_lokr_factors_a_matrix_below_half_of_its_longer_side(rank, shapes):
    assert lokr._factored(10, 6, rank) == shapes


@pytest.mark.parametrize("terms", [1, 2, 3, 4])
def test_the_series_of_a_rotation_ends_without_its_factor_two(terms):
    q = np.asarray(rotation.skew(draw(0, 6) / 9, 4), np.float64)
    powers = [np.linalg.matrix_power(q, n) for n in range(terms)]
    factors = [1, *[2] * (terms - 2), 1] if terms > 2 else [1, 2][:terms]
    wanted = sum(f * p for f, p in zip(factors, powers, strict=True))
    np.testing.assert_allclose(rotation.neumann(jnp.float32(q), terms), wanted, atol=1e-6)
