"""Quantised weights: errors, bytes, blocks of every shape, and gradients that pass the codes by."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import lora
from ftjax.core import einsum, tree
from ftjax.models.base import Linear
from ftjax.ops import linear, quantize

SHAPES = {  # the last axis fills blocks; three axes together do; nothing does
    "BTNH,NHD->BTD": (2, 3, 128),
    "BTD,DNH->BTNH": (6, 8, 24),
    "BTD,DKH->BTKH": (5, 3, 7),
    "EBD,EDF->EBF": (3, 40, 192),
}
each = pytest.mark.parametrize("name", quantize.FORMATS)
for_shapes = pytest.mark.parametrize("equation", SHAPES)


def weight(equation, *, seed=0):
    return jax.random.normal(jax.random.key(seed), SHAPES[equation]) * 0.1


@functools.partial(jax.jit, static_argnums=(0, 1))
def rounded(name, equation, w):
    return quantize.make(name=name)(equation, w)


dense = jax.jit(quantize.dense, static_argnums=1)


def error(name, equation, w):
    found = dense(rounded(name, equation, w), jnp.float32)
    assert (found.shape, found.dtype) == (w.shape, jnp.float32)
    return np.abs(found - w)


@for_shapes
def test_int8_is_within_half_a_step_of_its_channel(equation):
    w, e = weight(equation), einsum.parse(equation)
    inputs = tuple(e.w.index(c) for c in e.contracted)
    step = np.abs(w).max(inputs, keepdims=True) / 127
    assert (error("int8", equation, w) <= step / 2 * (1 + 1e-4)).all()


@for_shapes
def test_nf4_is_within_half_a_gap_of_its_block(equation):
    """The widest gap of the table, and a scale that is itself rounded to 8 bits."""
    w, gap = weight(equation), np.diff(quantize.table()).max()
    flat = np.asarray(w).reshape(-1)
    blocks = np.pad(flat, (0, -flat.size % quantize.BLOCK)).reshape(-1, quantize.BLOCK)
    absmax = np.abs(blocks).max(1)
    loose = np.abs(absmax - absmax.mean()).max() / 127  # of a scale
    bound = np.repeat(gap / 2 * absmax + loose, quantize.BLOCK)[: flat.size]
    assert (error("nf4", equation, w).reshape(-1) <= bound).all()


@pytest.mark.parametrize(("name", "most"), [("int8", 0.01), ("nf4", 0.1)])
def test_normal_weights_lose_little(name, most):
    w = jax.random.normal(jax.random.key(0), (256, 256))
    difference = error(name, "BTD,DF->BTF", w)
    assert np.sqrt(np.square(difference).mean()) < most


def test_the_table_holds_quantiles_of_the_normal():
    values = quantize.table()
    assert len(values) == 16
    assert (np.diff(values) > 0).all()
    assert {-1.0, 0.0, 1.0} <= set(values)
    scale = 1.848  # the quantile of the largest probability
    cumulative = np.array([0.5 * (1 + math.erf(v * scale / math.sqrt(2))) for v in values])
    np.testing.assert_allclose(np.diff(cumulative[7:]), np.diff(cumulative[7:]).mean(), rtol=1e-3)
    np.testing.assert_allclose(np.diff(cumulative[:8]), np.diff(cumulative[:8]).mean(), rtol=1e-3)
    np.testing.assert_allclose(cumulative[[0, -1]], [0.0323, 0.9677], atol=1e-4)


def test_values_of_the_table_are_kept_exactly():
    w = jnp.asarray(np.tile(quantize.table(), 8 * 16).reshape(16, 128), jnp.float32)
    np.testing.assert_allclose(error("nf4", "BTF,FD->BTD", w), 0, atol=1e-7)


@each
def test_zeros_stay_zero(name):
    w = jnp.zeros((4, 128)).at[0].set(1.0)
    assert (error(name, "BTF,FD->BTD", w)[1:] == 0).all()


@pytest.mark.parametrize("shape", [(256, 512), (64, 3, 128)])
def test_bytes_are_as_documented(shape):
    equation = "BTF,FD->BTD" if len(shape) == 2 else "BTD,DNH->BTNH"
    size, outputs = math.prod(shape), math.prod(shape[1:])
    w = jnp.ones(shape)
    assert tree.bytes_of(rounded("int8", equation, w)) == size + 4 * outputs
    blocks = size // quantize.BLOCK
    groups = -(-blocks // quantize.GROUP)
    assert tree.bytes_of(rounded("nf4", equation, w)) == size // 2 + blocks + 4 * groups + 4


@each
@for_shapes
def test_stacked_layers_are_those_one_by_one(name, equation):
    w = jnp.stack([weight(equation, seed=0), weight(equation, seed=1)])
    quantizer = quantize.make(name=name)
    stacked = jax.jit(jax.vmap(lambda w: quantizer(equation, w)))(w)
    both = dense(stacked, jnp.bfloat16)
    for layer in range(2):
        alone = rounded(name, equation, w[layer])
        for a, b in zip(jax.tree.leaves(stacked[layer]), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        close = dict(rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(both[layer], dense(alone, jnp.bfloat16), **close)


@each
@for_shapes
def test_letters_describe_every_array(name, equation):
    w, letters = weight(equation), einsum.parse(equation).w
    found = rounded(name, equation, w)
    arrays, own = tree.paths(found), tree.paths(quantize.axes(letters, found))
    assert own.keys() == arrays.keys()
    for path, axes in own.items():
        assert len(axes) == arrays[path].ndim, path
        assert set(axes) <= set(letters) | {quantize.WITHIN}
    stacked = jax.tree.map(lambda leaf: leaf[None], found)
    for path, axes in tree.paths(stacked.axes("L" + letters)).items():
        assert axes == "L" + own[path]


@each
@for_shapes
def test_a_linear_map_is_that_of_the_dense_weight(name, equation):
    """With and without an adapter: values, and the gradients of what may train."""
    w, e = weight(equation), einsum.parse(equation)
    sizes = dict(B=2, T=3) | einsum.sizes(e.w, w.shape)
    x = jax.random.normal(jax.random.key(2), [sizes[c] for c in e.x])
    site = Linear(equation, w.shape, None)
    adapter = lora.make(rank=2, alpha=4.0)(jax.random.key(3), site, w)
    adapter = jax.tree.map(lambda leaf: leaf + 0.1, adapter)
    q = rounded(name, equation, w)
    array = dense(q, jnp.float32)
    for given in (None, adapter):
        run = lambda x, given, w: jnp.square(linear.linear(equation, x, w, given)).sum()
        gradient = jax.jit(jax.value_and_grad(run, (0, 1)))
        found, wanted = gradient(x, given, q), gradient(x, given, array)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *(
            (found, wanted)))  # fmt: skip


@each
def test_only_arrays_are_cast(name):
    w = {"q": rounded(name, "BTF,FD->BTD", jnp.ones((4, 64))), "norm": jnp.ones(4)}
    cast = quantize.cast(w, jnp.bfloat16)
    assert cast["norm"].dtype == jnp.bfloat16
    assert cast["q"] is w["q"]
    assert quantize.sites({"blocks": w}) == ["blocks/q"]
    found = quantize.dense(w, jnp.bfloat16)
    assert (found["q"].dtype, found["norm"].dtype) == (jnp.bfloat16, jnp.float32)


def test_a_format_that_is_not_there():
    with pytest.raises(ValueError, match=r"model\.quantize\.name: got 'int4'; expected one of"):
        quantize.make(name="int4")
