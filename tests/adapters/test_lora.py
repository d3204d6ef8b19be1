"""LoRA: scales, initial values, dropout, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import lora
from ftjax.adapters.lib import inits
from ftjax.adapters.lib import protocol as base
from ftjax.models.base import Linear

EQUATION = "BTNH,NHD->BTD"
W = jax.random.normal(jax.random.key(0), (4, 8, 16))
SITE = Linear(EQUATION, W.shape, None)


def make_method(**options):
    return lora.make(**dict(rank=4, alpha=8.0) | options)


def make(**options):
    return make_method(**options)(jax.random.key(1), SITE, W)


def test_the_scale():
    assert float(make().scale) == 2.0
    assert float(make(rslora=True).scale) == 4.0
    assert float(make(rank=16).scale) == 0.5


def test_initial_values():
    adapter = make(rank=64)
    assert not adapter.b.any()
    bound = 32**-0.5  # the fan in is N * H
    assert float(jnp.abs(adapter.a).max()) <= bound
    assert float(jnp.abs(adapter.a).max()) > 0.95 * bound
    assert float(adapter.a.std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_dropout_acts_on_the_low_rank_branch_with_a_key_only():
    adapter = make(dropout=0.5)
    adapter = jax.tree.map(lambda x: x + 0.3, adapter)
    x = jax.random.normal(jax.random.key(2), (2, 3, 4, 8))
    plain = adapter.apply(EQUATION, x, W)
    np.testing.assert_allclose(
        plain, jnp.einsum(EQUATION, x, adapter.merge(EQUATION, W)), rtol=1e-4, atol=1e-4
    )
    keys = jax.random.split(jax.random.key(3), 200)
    draws = jax.vmap(lambda key: adapter.apply(EQUATION, x, W, key))(keys)
    assert float(draws.std(0).min()) > 0
    base = jnp.einsum(EQUATION, x, W)
    spread = np.asarray(draws.std(0)) / len(keys) ** 0.5
    assert (np.abs(draws.mean(0) - plain) < 5 * spread).all()
    zero_up = jax.tree.map(lambda x: x, adapter)
    zero_up = lora.LoRA(zero_up.a, 0 * zero_up.b, zero_up.scale, 0.5)
    np.testing.assert_allclose(zero_up.apply(EQUATION, x, W, keys[0]), base, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("init", inits.INITS)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_every_start_is_the_base(init, dropout):
    adapter = make(init=init, dropout=dropout)
    np.testing.assert_allclose(adapter.merge(EQUATION, W), W, rtol=1e-5, atol=1e-5)
    x = jax.random.normal(jax.random.key(2), (2, 3, 4, 8))
    moved = dataclasses.replace(adapter, b=adapter.b + 0.1)
    expected = jnp.einsum(EQUATION, x, moved.merge(EQUATION, W))
    np.testing.assert_allclose(moved.apply(EQUATION, x, W), expected, rtol=1e-4, atol=1e-4)
    drawn = moved.apply(EQUATION, x, W, jax.random.key(4))
    assert (dropout > 0) == bool(jnp.abs(drawn - expected).max() > 1e-3)
    assert bool(adapter.a.any())


@pytest.mark.parametrize(("init", "kept"), [("pissa", slice(None, 4)), ("milora", slice(-4, None))])
def test_singular_triplets(init, kept):
    adapter, matrix = make(init=init), W.reshape(32, 16)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    wanted = u[:, kept] * s[kept] @ v[kept]
    ours = adapter.scale * adapter.a.reshape(32, 4) @ adapter.b
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_the_first_step_of_lora_ga_is_the_gradient_s_best_cut():
    """To first order s (da b + a db), with da = s g b^T and db = s a^T g: cut to rank 2 R."""
    g = jax.random.normal(jax.random.key(5), (32, 16))
    a, b = inits.lora_ga(g, 3)
    moved = g @ b.T @ b + a @ a.T @ g
    u, s, v = np.linalg.svd(g, full_matrices=False)
    best = u[:, :6] * s[:6] @ v[:6]
    np.testing.assert_allclose(moved, 16**0.5 / inits.GAMMA * best, rtol=1e-3, atol=1e-3)


def test_lora_null_takes_what_unseen_directions_carry():
    """Of inputs that never leave a plane, the third direction's row of the weight, and it alone."""
    seen = jnp.diag(jnp.array([4.0, 2.0, 0.0]))
    w = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    a, b = inits.lora_null(seen, w, 1)
    np.testing.assert_allclose(a @ b, [[0, 0], [0, 0], [5, 6]], atol=1e-5)


def test_corda_takes_the_triplet_that_counts_least_for_the_inputs():
    """Of a diagonal weight: the larger entry, where its input is the rarer by more."""
    moments, w = jnp.diag(jnp.array([9.0, 1.0])), jnp.diag(jnp.array([1.0, 3.0]))
    a, b = inits.corda(moments, w, 1)
    np.testing.assert_allclose(a @ b, [[0, 0], [0, 3]], atol=1e-5)
    plain = inits.milora(None, w, 1, 1.0)
    np.testing.assert_allclose(plain[0] @ plain[1], [[1, 0], [0, 0]], atol=1e-5)
    # Of inputs without any difference it is MiLoRA's; no inputs at all are no reason to fail.
    for moments in (jnp.eye(2), jnp.zeros((2, 2))):
        a, b = inits.corda(moments, w, 1)
        np.testing.assert_allclose(a @ b, plain[0] @ plain[1], atol=1e-5)


@pytest.mark.parametrize("init", inits.NEEDS)
def test_around_found_factors_it_is_the_base_unless_declared_otherwise(init):
    method = make_method(init=init)
    blank = method.init(None, SITE, W, None)
    np.testing.assert_array_equal(blank.merge(EQUATION, W), W)
    a, b = (jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate((blank.a, blank.b)))
    b = 0 * b if init == "eva" else b
    merged = method.init(None, SITE, W, (a, b)).merge(EQUATION, W)
    moved = jnp.abs(merged - W).max()
    assert bool(moved > 0.1) == (init in inits.NOT_THE_BASE)
    if init in inits.NOT_THE_BASE:  # the factors are those of the product, whatever the scale
        product = jnp.einsum("NHR,RD->NHD", a, b)
        np.testing.assert_allclose(merged, W + product, rtol=1e-4, atol=1e-4)


def test_ranks_go_where_the_energy_is():
    shares = {"x": jnp.array([[0.5, 0.1], [0.2, 0.1]]), "y": jnp.array([[0.9, 0.05]])}
    kept = inits.redistribute(shares, 3)
    np.testing.assert_array_equal(kept["x"], [[True, False], [True, False]])
    np.testing.assert_array_equal(kept["y"], [[True, False]])


def test_experts_start_each_by_itself():
    w = jax.random.normal(jax.random.key(0), (3, 6, 10))
    site = Linear("EBD,EDF->EBF", w.shape, None)
    many = lora.make(rank=2, alpha=4.0, init="pissa")(jax.random.key(1), site, w)
    one = lora.make(rank=2, alpha=4.0, init="pissa")(
        jax.random.key(1), Linear("BD,DF->BF", w.shape[1:], None), w[1]
    )
    np.testing.assert_allclose(many.a[1] @ many.b[:, 1], one.a @ one.b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many.merge(site.equation, w), w, rtol=1e-5, atol=1e-5)


def test_an_offset_is_data():
    assert set(base.frozen_paths({"q": make(init="pissa")}, prefix="adapters")) == {
        f"adapters/q/{name}" for name in ("a0", "b0", "scale")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(init="pisa"), r"adapter\.init: got 'pisa'; did you mean 'pissa'"),
        (dict(init="pissa", rank=17), r"adapter\.rank: got 17 .*expected at most 16"),
        (dict(init="orthogonal", rank=3), r"adapter\.rank: got 3 .*expected an even rank"),
    ],
)
def test_starts_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("options", [dict(rank=0), dict(dropout=1.0), dict(dropout=-0.1)])
def test_what_is_refused(options):
    with pytest.raises(ValueError, match=r"adapter\.(rank|dropout): got"):
        make(**options)
