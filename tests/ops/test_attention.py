"""Attention against a loop over rows, heads and positions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.ops import attention, visible
from ftjax.ops.fast import flash, pairs, plain, tpu


def naive(q, k, v, positions, segments, *, scale, window, cap=None):
    B, T, N, H = q.shape
    out = np.zeros((B, T, N, H))
    for b, t, n in itertools.product(range(B), range(T), range(N)):
        head = n // (N // k.shape[2])
        seen = [
            s for s in range(T)
            if segments[b, s] == segments[b, t] and positions[b, s] <= positions[b, t]
            and (window is None or positions[b, t] - positions[b, s] < window)
        ]  # fmt: skip
        scores = np.array([scale * q[b, t, n] @ k[b, s, head] for s in seen])
        scores = scores if cap is None else cap * np.tanh(scores / cap)
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[b, t, n] = sum(w * v[b, s, head] for w, s in zip(weights, seen, strict=True))
    return out


@functools.partial(jax.jit, static_argnames=("window", "before", "scale", "cap"))
def attend(q, k, v, positions, segments, *, window=None, before=0, **options):
    """Compute causal attention as one program, as in a model."""
    seen = visible.visible_keys(positions, segments, before=before, window=window)
    return attention.attend_causal(q, k, v, seen, **options)


@pytest.mark.parametrize(("window", "cap"), [(None, None), (1, None), (3, 1.5)])
@pytest.mark.parametrize("heads", [(4, 2), (2, 2), (3, 1)])
def test_against_the_loop(heads, window, cap):
    (N, K), draw = heads, np.random.default_rng(0).normal
    q, k, v = draw(size=(2, 7, N, 4)), draw(size=(2, 7, K, 4)), draw(size=(2, 7, K, 4))
    segments = np.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 0, 0]])
    positions = np.array([[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 0]])
    arrays = (x.astype(np.float32) for x in (q, k, v))
    got = attend(*arrays, positions, segments, window=window, scale=0.7, cap=cap)
    wanted = naive(q, k, v, positions, segments, scale=0.7, window=window, cap=cap)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("new", [1, 3, 6])
@pytest.mark.parametrize(("window", "cap"), [(None, None), (2, None), (3, 1.5)])
def test_a_cache_and_new_tokens_against_the_loop(new, window, cap):
    """Slot = position; what lies in the slots of the new tokens and behind them is not seen."""
    draw, lengths = np.random.default_rng(0).normal, np.array([9, 7])
    q, k, v = draw(size=(2, 9, 4, 3)), draw(size=(2, 9, 2, 3)), draw(size=(2, 9, 2, 3))
    places = np.broadcast_to(np.arange(9), (2, 9))
    segments = np.int32(places < lengths[:, None])
    wanted = naive(q, k, v, places, segments, scale=0.7, window=window, cap=cap)
    at = lengths[:, None] - new + np.arange(new)
    take = lambda x: np.take_along_axis(x, at[..., None, None], axis=1)
    stored = lambda k, v, mask: (jnp.moveaxis(k, 1, 3), jnp.moveaxis(v, 1, 2), mask)

    @jax.jit
    def cached(at, q, past, new):
        own = at, jnp.ones_like(at)
        masks = (
            visible.past_mask(own, slots=9, window=window),
            visible.causal_mask(own, own, window=window),
        )
        parts = [stored(*past, masks[0]), stored(*new, masks[1])]
        return attention.attend_cached(q, parts, scale=0.7, cap=cap)

    got = cached(at, take(q), (k, v), (take(k), take(v)))
    np.testing.assert_allclose(got, take(wanted), atol=1e-5)


def test_only_short_rows_keep_their_mask():
    row = lambda T: visible.visible_keys(jnp.arange(T)[None], jnp.ones((1, T), jnp.int32))
    assert row(visible.SHORT).mask_BTS is not None
    assert row(visible.SHORT + 1).mask_BTS is None
    assert row(3).mask().tolist() == np.tril(np.ones((1, 3, 3), bool)).tolist()


def test_memory_is_linear_in_a_long_row():
    """Twice the row takes twice the temporaries, and blocks that a window hides are not there."""

    def temporaries(T, window=None):
        q = jax.ShapeDtypeStruct((1, T, 2, 8), jnp.float32)
        row = jax.ShapeDtypeStruct((1, T), jnp.int32)
        attend = lambda q, *row: attention.attend_causal(
            q, q, q, visible.visible_keys(*row, window=window), scale=1.0
        )
        compiled = jax.jit(jax.grad(lambda *a: attend(*a).sum())).lower(q, row, row).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = temporaries(2048), temporaries(4096)
    assert long < 2.1 * short
    assert long < 4096 * 4096 * 2  # one of its masks


def test_pairs_of_blocks_that_are_hidden_are_left_out():
    assert pairs._turns(1536, 1536, 512, None) == ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))
    assert pairs._turns(1536, 1536, 512, 513) == ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2))
    assert pairs._turns(1536, 1536, 512, 514) == pairs._turns(1536, 1536, 512, None)
    assert pairs._turns(1024, 1030, 512, 1) == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))


def test_gradients_go_through_the_cap():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 5, 2, 4))
    pair = (jnp.broadcast_to(jnp.arange(5), (2, 5)), jnp.ones((2, 5), jnp.int32))
    seen = visible.visible_keys(*pair, window=3)
    mask = seen.mask()

    def plain(q, k, v):
        scores = 2.0 * jnp.tanh(0.7 * jnp.einsum("btnh,bsnh->bnts", q, k) / 2.0)
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf))
        return jnp.einsum("bnts,bsnh->btnh", weights, v)

    ours = lambda q, k, v: attention.attend_causal(q, k, v, seen, scale=0.7, cap=2.0)
    got, wanted = (
        jax.jit(jax.grad(lambda *args, f=f: jnp.square(f(*args)).sum(), (0, 1, 2)))(q, k, v)
        for f in (ours, plain)
    )
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("T", [2 * flash.BLOCK, flash.LONGEST + 6])
def test_keys_before_the_others_are_seen_by_all_segments(T, window):
    """As if every segment had them in front; the blocks of a row are cut in their places."""
    before, draw = 3, np.random.default_rng(0).normal
    q, k, v = (
        draw(size=(1, n, 2, 4)).astype(np.float32) for n in (T, T + before, T + before)
    )  # fmt: skip
    positions, segments = np.arange(T)[None] % (T // 2), 1 + np.arange(T)[None] // (T // 2)
    got = attend(q, k, v, positions, segments, before=before, window=window, scale=0.7)
    for segment in (1, 2):
        own = np.flatnonzero(segments[0] == segment)
        keys = np.concatenate([np.arange(before), own + before])
        q_1 = np.concatenate([np.zeros((1, before, 2, 4), np.float32), q[:, own]], axis=1)
        row = np.arange(len(keys))[None], np.ones((1, len(keys)), int)
        alone = attend(q_1, k[:, keys], v[:, keys], *row, window=window, scale=0.7)
        np.testing.assert_allclose(
            np.asarray(got)[:, own], np.asarray(alone)[:, before:], atol=1e-5
        )  # fmt: skip


def test_a_row_that_sees_nothing_is_finite():
    q = jnp.ones((1, 1, 2, 4))
    part = q.transpose(0, 2, 3, 1), q.swapaxes(1, 2), jnp.zeros((1, 1, 1), bool)
    assert np.isfinite(attention.attend_cached(q, [part], scale=1.0)).all()
    own = jnp.zeros((1, 1), jnp.int32)
    seen = visible.Visible(own, own, part[2], 0, None)
    assert np.isfinite(attention.attend_causal(q, q, q, seen, scale=1.0)).all()


def test_the_softmax_of_bfloat16_is_in_float32():
    q = jnp.full((1, 300, 1, 4), 1.0, jnp.bfloat16)
    v = jnp.ones((1, 300, 1, 4), jnp.bfloat16)
    seen = visible.visible_keys(jnp.arange(300)[None], jnp.ones((1, 300), jnp.int32))
    out = attention.attend_causal(q, q, v, seen, scale=1.0)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), 1.0, atol=0.02)


def test_a_sink_is_one_more_key_without_a_value():
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
    q, k, v, sink = draw(0, 2, 5, 4, 8), draw(1, 2, 5, 2, 8), draw(2, 2, 5, 2, 6), draw(3, 4)
    places = jnp.broadcast_to(jnp.arange(5), (2, 5))
    seen = visible.visible_keys(places, jnp.ones_like(places))
    mask = seen.mask()

    def plain(q, k, v, sink):
        scores = jnp.einsum("BTNH,BSNH->BNTS", q, k.repeat(2, 2)) * 0.5
        scores = jnp.where(mask[:, None], scores, -1e30)
        column = jnp.broadcast_to(sink[None, :, None, None], (*scores.shape[:3], 1))
        weights = jax.nn.softmax(jnp.concatenate([scores, column], -1))[..., :-1]
        return jnp.einsum("BNTS,BSNH->BTNH", weights, v.repeat(2, 2))

    ours = lambda q, k, v, sink: attention.attend_causal(q, k, v, seen, scale=0.5, sink_N=sink)
    wanted = jax.jit(plain)(q, k, v, sink)
    np.testing.assert_allclose(jax.jit(ours)(q, k, v, sink), wanted, rtol=1e-4, atol=1e-5)
    square = lambda f: jax.jit(jax.grad(lambda *args: jnp.square(f(*args)).sum(), (0, 1, 2, 3)))
    for got, other in zip(square(ours)(q, k, v, sink), square(plain)(q, k, v, sink), strict=True):
        np.testing.assert_allclose(got, other, rtol=1e-3, atol=1e-4)
    part = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2), mask
    cached = jax.jit(lambda q, part: attention.attend_cached(q, [part], scale=0.5, sink_N=sink))
    np.testing.assert_allclose(cached(q, part), wanted, rtol=1e-4, atol=1e-5)


# -- rows in parts ---------------------------------------------------------------------------------


def in_parts(run, sizes, *, T, heads, window=None, cap=None, sink=False, before=0):
    """Compute values and gradients of `run` over a mesh, and of the definition on one device."""
    draw, (N, K) = np.random.default_rng(0).normal, heads
    arrays = draw(size=(2, T, N, 16)), *draw(size=(2, 2, before + T, K, 16))
    arrays = (*arrays, draw(size=N) if sink else None)
    arrays = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrays)
    # Two examples, of which one goes over the places where rows are cut, and padding.
    segments = np.repeat([[1, 2, 0]], [T // 3, T - T // 3 - 5, 5], axis=1).repeat(2, 0)
    positions = np.concatenate([np.arange(T // 3), np.arange(T - T // 3)])[None].repeat(2, 0)
    rows = positions.astype(np.int32), segments.astype(np.int32)

    def loss(arrays, run):
        *qkv, sink_N = arrays
        seen = visible.visible_keys(*rows, before=before, window=window)
        out = run(*qkv, sink_N, seen, 0.3, cap)
        return (jnp.sin(out) * (rows[1] > 0)[..., None, None]).sum()

    found = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    wanted = found(arrays, plain.attend)
    with jax.set_mesh(meshes.make(**dict(data=1) | sizes)):
        return found(arrays, run), wanted


def whole(q, k, v, sink_N, seen, scale, cap):
    return attention.attend_causal(q, k, v, seen, scale=scale, cap=cap, sink_N=sink_N)


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        (dict(fsdp=2, sequence=4), dict(T=64, heads=(4, 2), window=9, cap=3.0, sink=True)),
        # Four devices share two heads of keys; virtual tokens are on all of them.
        (dict(sequence=2, tensor=4), dict(T=64, heads=(4, 2), before=3, sink=True)),
        (dict(sequence=4, tensor=2), dict(T=1536, heads=(2, 2), window=300, before=5)),
    ],
    ids=["window", "virtual tokens", "loop"],
)
def test_parts_of_rows_on_devices_are_the_definition(sizes, options):
    for ours, theirs in zip(*map(jax.tree.leaves, in_parts(whole, sizes, **options)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_the_kernel_of_a_tpu_knows_where_its_part_of_a_row_is():
    kernel = lambda *given: tpu.attend(*given, interpret=True)
    options = dict(T=256, heads=(2, 1), window=70)
    sizes = dict(data=2, sequence=2, tensor=2)
    for ours, theirs in zip(*map(jax.tree.leaves, in_parts(kernel, sizes, **options)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
