"""What the laws do not see of single methods: larger sizes, several factors, PEFT's own rules."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import boft, fourierft, ia3, loha, lokr, oft, vera
from ftjax.adapters.lib import matrix, rotation
from ftjax.core import tree
from ftjax.models.base import Linear

EQUATION, SHAPE = "BTD,DNH->BTNH", (64, 4, 24)


def random(method, *, equation=EQUATION, shape=SHAPE):
    """Initialise an adapter, and move what trains."""

    def draw():
        w = jax.random.normal(jax.random.key(0), shape)
        adapter = tree.unshared(method(jax.random.key(1), Linear(equation, shape, None), w))
        moved = jax.tree.map(
            lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(2), leaf.shape), adapter
        )
        return w, dataclasses.replace(moved, **{n: vars(adapter)[n] for n in adapter.FROZEN})

    return jax.jit(draw)()


@pytest.mark.parametrize(
    ("method", "rank"),
    [
        (loha.make(rank=3, alpha=6.0), 9),
        (fourierft.make(frequencies=4, scale=60.0), 8),
        (boft.make(block=4, factors=3), None),
        (oft.make(block=8, terms=5), None),
        (oft.make(block=8, share=True), None),
        (lokr.make(rank=2, alpha=4.0, factor=4, both=True), None),
    ],
    ids=["loha", "fourierft", "boft", "oft_series", "oft_shared", "lokr_both"],
)
def test_the_fast_way_is_the_definition_where_it_is_taken(method, rank):
    w, adapter = random(method)
    assert rank is None or matrix.low(EQUATION, SHAPE, rank)
    x = jax.random.normal(jax.random.key(3), (2, 5, SHAPE[0]))
    defined = lambda adapter: jnp.einsum(EQUATION, x, adapter.merge(EQUATION, w))
    applied = lambda adapter: adapter.apply(EQUATION, x, w)
    outputs, gradients = [], []
    for run in (applied, defined):
        square = lambda adapter, run=run: (jnp.square(out := run(adapter)).sum(), out)
        gradient, out = jax.jit(jax.grad(square, has_aux=True))(adapter)
        outputs.append(out), gradients.append(gradient)
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)
    ours, theirs = gradients
    assert np.abs(np.concatenate([x.ravel() for x in jax.tree.leaves(theirs)])).max() > 1
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(b).max())
    jax.tree.map(close, ours, theirs)


@pytest.mark.parametrize(
    "method", [oft.make(block=8), boft.make(block=4, factors=2)], ids=["oft", "boft"]
)
def test_rotations_keep_the_products_of_rows(method):
    w, adapter = random(method)
    if isinstance(adapter, boft.BOFT):
        adapter = dataclasses.replace(adapter, gain=jnp.ones_like(adapter.gain))
    rows, turned = (matrix.flatten(EQUATION, m) for m in (w, adapter.merge(EQUATION, w)))
    assert np.abs(turned - rows).max() > 0.1
    np.testing.assert_allclose(turned @ turned.T, rows @ rows.T, rtol=1e-4, atol=1e-3)


def test_the_butterfly_turns_the_units_that_its_permutations_bring_together():
    """Against dense matrices: B_i = P_i D_i P_i^T, P_i putting even half blocks before odd ones."""
    size, half, factors = 16, 2, 3
    w, adapter = random(
        boft.make(block=2 * half, factors=factors), equation="BTD,DF->BTF", shape=(size, 3)
    )
    total = np.eye(size)
    for i in range(factors):
        q = np.asarray(adapter.q[i])
        turn = np.zeros((size, size))
        for b, one in enumerate(rotation.cayley(jnp.asarray(q - q.swapaxes(1, 2)) / 2)):
            at = slice(2 * half * b, 2 * half * (b + 1))
            turn[at, at] = one
        halves = np.arange(size).reshape(-1, 2 ** (i + 1), half)
        order = np.concatenate([halves[:, 0::2], halves[:, 1::2]], 1).ravel()
        permutation = np.eye(size)[order]
        total = permutation @ turn @ permutation.T @ total
    wanted = (total @ np.asarray(w)) * np.asarray(adapter.gain)
    np.testing.assert_allclose(adapter.merge("BTD,DF->BTF", w), wanted, rtol=1e-4, atol=1e-5)


def test_the_series_is_the_inverse_of_the_exact_rotation():
    q = rotation.skew(0.01 * jax.random.normal(jax.random.key(0), (2, 6)), 4)
    product = rotation.neumann(q, 6) @ rotation.cayley(q)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(4), (2, 4, 4)), atol=1e-6)


def test_sizes_split_into_the_nearest_factors():
    for size in (1, 2, 7, 24, 40, 48, 127, 128, 250, 360, 1024, 11008):
        small, large = lokr.split(size, -1)
        assert (small * large, small <= large) == (size, True)
        assert not [n for n in range(small + 1, math.isqrt(size) + 1) if size % n == 0]
    assert lokr.split(128, 4) == (4, 32)
    assert lokr.split(24, 12) == (12, 2)  # it divides: it is the first, as in PEFT
    assert lokr.split(250, 4) == (2, 125)  # it does not: the largest that is not above it


def test_positions_are_distinct_and_begin_with_fewer():
    few, many = (fourierft.positions(9, 11, n, 5) for n in (20, 99))
    np.testing.assert_array_equal(np.stack(few), np.stack(many)[:, :20])
    assert sorted(zip(*many, strict=True)) == [(u, v) for u in range(9) for v in range(11)]
    assert not np.array_equal(fourierft.positions(9, 11, 20, 6), few)


def test_the_change_is_the_real_part_of_the_transform():
    w, adapter = random(fourierft.make(frequencies=30, scale=3.0))
    spectrum = np.zeros((96, 64))
    spectrum[fourierft.positions(96, 64, 30, fourierft.SEED)] = adapter.c
    wanted = matrix.flatten(EQUATION, w) + 3.0 * np.fft.ifft2(spectrum).real
    merged = matrix.flatten(EQUATION, adapter.merge(EQUATION, w))
    np.testing.assert_allclose(merged, wanted, rtol=1e-5, atol=1e-5)


def test_ia3_scales_the_input_of_what_reads_hidden_units():
    sizes = dict(D=3, F=5)
    for equation, inward, length in (("BTF,FD->BTD", True, 5), ("BTD,DF->BTF", False, 5)):
        shape = tuple(sizes[c] for c in equation[4:6])
        _, adapter = random(ia3.make(), equation=equation, shape=shape)
        assert (adapter.inward, adapter.gain.shape) == (inward, (length,))


def test_projections_of_a_wider_map_begin_with_those_of_a_narrower_one():
    _, narrow = random(vera.make(rank=4), equation="BTD,DF->BTF", shape=(6, 8))
    _, wide = random(vera.make(rank=4), equation="BTD,DF->BTF", shape=(9, 10))
    np.testing.assert_array_equal(wide.a[:6], narrow.a)
    np.testing.assert_array_equal(wide.b[:, :8], narrow.b)
    assert not np.array_equal(
        random(vera.make(rank=4, seed=1))[1].b, random(vera.make(rank=4))[1].b
    )


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: vera.make(rank=0), "rank: got 0"),
        (lambda: loha.make(rank=0, alpha=1.0), "rank: got 0"),
        (lambda: lokr.make(rank=0, alpha=1.0), "rank: got 0"),
        (lambda: lokr.make(rank=1, alpha=1.0, factor=0), "factor: got 0"),
        (lambda: oft.make(block=1), "block=1"),
        (lambda: oft.make(block=4, terms=2), "terms=2"),
        (lambda: boft.make(block=4, factors=0), "factors=0"),
        (lambda: random(boft.make(block=4, factors=6)), "use fewer factors"),
        (lambda: fourierft.make(frequencies=0, scale=1.0), "frequencies: got 0"),
    ],
)
def test_what_is_wrong_says_so(make, match):
    with pytest.raises(ValueError, match=match):
        make()
