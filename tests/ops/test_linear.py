"""The contraction against einsum, value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import einsum
from ftjax.ops import fast, linear

SIZES = dict(B=2, T=3, D=6, N=2, H=4, F=10, V=7, E=3, S=5)


@pytest.mark.parametrize(
    "equation",
    ["BTD,DNH->BTNH", "BTNH,NHD->BTD", "BTD,VD->BTV", "EBD,EDF->EBF", "BTD,NDH->BTNH", "D,DF->F"],
)
def test_against_einsum(equation):
    e, draw = einsum.parse(equation), np.random.default_rng(0).normal
    x, w, g = (jnp.asarray(draw(size=[SIZES[c] for c in part])) for part in (e.x, e.w, e.y))
    for function in (fast.contract, linear.linear):
        got, pull = jax.vjp(lambda x, w, f=function: f(equation, x, w), x, w)
        wanted, pull_wanted = jax.vjp(lambda x, w: jnp.einsum(equation, x, w), x, w)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(pull(g), pull_wanted(g), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
