"""Rotary positions against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.ops import rope

LLAMA3 = dict(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)


def make(kind, **numbers):
    return rope.Rope(10000.0, kind, tuple(numbers.items()))


def test_default_and_linear():
    f = rope.inverse_frequencies(make("default"), 8)
    np.testing.assert_allclose(f, [10000.0 ** (-2 * i / 8) for i in range(4)], rtol=1e-6)
    np.testing.assert_allclose(
        rope.inverse_frequencies(make("linear", factor=4.0), 8), f / 4, rtol=1e-6
    )
    assert f.dtype == np.float32


def test_llama3_by_wavelength():
    plain = rope.inverse_frequencies(make("default"), 32)
    scaled = rope.inverse_frequencies(make("llama3", **LLAMA3), 32)
    seen = set()
    for f, got in zip(plain, scaled, strict=True):
        wavelength = 2 * math.pi / f
        low, high = 64 / 1.0, 64 / 4.0
        if wavelength < high:
            seen.add("short")
            wanted = f
        elif wavelength > low:
            seen.add("long")
            wanted = f / 8
        else:
            seen.add("between")
            blend = (64 / wavelength - 1.0) / (4.0 - 1.0)
            wanted = (1 - blend) * f / 8 + blend * f
        assert got == pytest.approx(wanted, rel=1e-5)
    assert seen == {"short", "between", "long"}


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="expected default, linear, llama3, longrope"):
        rope.inverse_frequencies(make("ntk", factor=2.0), 8)


LONGROPE = dict(
    factor=8.0, original_max_position_embeddings=16, short_factor=(1.0, 1.5), long_factor=(2.0, 4.0)
)


def test_longrope_by_the_length_of_the_context():
    f = rope.inverse_frequencies(make("default"), 4)
    by_length = lambda n: rope.inverse_frequencies(make("longrope", **LONGROPE), 4, length=n)
    np.testing.assert_allclose(by_length(16), f / np.array([1.0, 1.5]), rtol=1e-6)
    np.testing.assert_allclose(by_length(17), f / np.array([2.0, 4.0]), rtol=1e-6)
    with pytest.raises(ValueError, match="no length of the context"):
        rope.inverse_frequencies(make("longrope", **LONGROPE), 4)


def test_longrope_scales_what_it_rotates():
    by = lambda **numbers: rope.attention_factor(make("longrope", **LONGROPE | numbers))
    assert by() == pytest.approx(math.sqrt(1 + math.log(8) / math.log(16)))
    assert by(factor=1.0) == 1.0
    assert by(attention_factor=1.5) == 1.5
    assert rope.attention_factor(make("llama3", **LLAMA3)) == 1.0
    f, x = rope.inverse_frequencies(make("default"), 8), jnp.ones((1, 2, 1, 8))
    plain, scaled = (rope.tables(f, jnp.arange(2)[None], factor=c) for c in (1.0, 3.0))
    np.testing.assert_allclose(rope.rotate(x, *scaled), 3 * rope.rotate(x, *plain), rtol=1e-5)


def test_a_partial_rotation_is_one_of_fewer_features():
    part = rope.Rope(10000.0, partial=0.5)
    f = rope.inverse_frequencies(part, 16)
    np.testing.assert_array_equal(f, rope.inverse_frequencies(make("default"), 8))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2, 16)).astype(np.float32))
    tables = rope.tables(f, jnp.arange(3)[None])
    got = rope.rotate(x, *tables)
    np.testing.assert_array_equal(got[..., :8], rope.rotate(x[..., :8], *tables))
    np.testing.assert_array_equal(got[..., 8:], x[..., 8:])


def test_rotation_is_complex_multiplication():
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 8)).astype(np.float32)
    positions = np.array([[0, 1, 2], [5, 6, 9]])
    f = rope.inverse_frequencies(make("default"), 8)
    got = rope.rotate(jnp.asarray(x), *rope.tables(f, jnp.asarray(positions)))
    z = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * positions[..., None] * f)[:, :, None]
    np.testing.assert_allclose(got, np.concatenate([z.real, z.imag], -1), atol=1e-5)
    np.testing.assert_array_equal(got[0, 0], x[0, 0])


def test_scores_depend_on_the_distance_alone():
    f = rope.inverse_frequencies(make("default"), 8)
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    turn = lambda x, p: rope.rotate(jnp.asarray(x), *rope.tables(f, jnp.array([[p]])))
    score = lambda i, j: float((turn(q, i) * turn(k, j)).sum())
    assert score(7, 4) == pytest.approx(score(103, 100), abs=1e-4)
    assert abs(score(7, 4) - score(7, 5)) > 1e-3


YARN = dict(
    factor=4.0, original_max_position_embeddings=64, beta_fast=8.0, beta_slow=1.0, truncate=False
)  # fmt: skip


def test_yarn_leaves_what_turns_often_and_slows_what_hardly_turns():
    f = rope.inverse_frequencies(rope.Rope(10000.0), 32)
    slowed = rope.inverse_frequencies(make("yarn", **YARN), 32)
    turns = 64 * f / (2 * np.pi)
    fast, slow = turns > 8, turns < 1
    assert fast.any()
    assert slow.any()
    np.testing.assert_allclose(slowed[fast], f[fast], rtol=1e-6)
    np.testing.assert_allclose(slowed[slow], f[slow] / 4, rtol=1e-6)
    between = ~fast & ~slow
    assert ((slowed < f) & (slowed > f / 4))[between].all()
    rounded = rope.inverse_frequencies(make("yarn", **YARN | dict(truncate=True)), 32)
    assert (rounded != slowed).any()


@pytest.mark.parametrize(
    ("more", "factor"),
    [
        ({}, 0.1 * np.log(4) + 1), (dict(attention_factor=0.7), 0.7),
        (dict(mscale=1.0, mscale_all_dim=1.0), 1.0),
        (dict(mscale=1.0, mscale_all_dim=0.5), (0.1 * np.log(4) + 1) / (0.05 * np.log(4) + 1)),
    ],
)  # fmt: skip
def test_the_temperature_of_yarn(more, factor):
    assert rope.attention_factor(make("yarn", **YARN, **more)) == pytest.approx(factor)


def test_queries_grow_with_the_laps_of_their_position():
    plain, growing = make("yarn", **YARN), make("yarn", **YARN, llama_4_scaling_beta=0.5)
    positions = jnp.array([[0, 63, 64, 200]])
    assert rope.query_factor(plain, positions) is None
    got = rope.query_factor(growing, positions)[0, :, 0, 0]
    np.testing.assert_allclose(got, 1 + 0.5 * np.log([1, 1, 2, 4]), rtol=1e-6)


def test_interleaved_pairs_are_neighbours():
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 8))
    f, at = rope.inverse_frequencies(rope.Rope(100.0), 8), jnp.arange(3)[None]
    halves = jnp.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)
    turned = rope.rotate(halves, *rope.tables(f, at))
    got = rope.rotate(x, *rope.tables(f, at, interleaved=True))
    np.testing.assert_allclose(got[..., ::2], turned[..., :4], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[..., 1::2], turned[..., 4:], rtol=1e-5, atol=1e-6)


def test_a_proportional_part_keeps_the_pairs_of_the_whole_head():
    whole = rope.inverse_frequencies(rope.Rope(100.0), 16)
    part = rope.inverse_frequencies(rope.Rope(100.0, "proportional", partial=0.25), 16)
    np.testing.assert_array_equal(part, np.where(np.arange(8) < 2, whole, 0))


def test_an_alpha_raises_the_base():
    got = rope.inverse_frequencies(make("dynamic", alpha=50.0), 8)
    wanted = rope.inverse_frequencies(rope.Rope(10000.0 * 50 ** (8 / 6)), 8)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
