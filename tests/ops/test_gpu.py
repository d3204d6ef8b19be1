"""cuDNN's attention on a GPU, where there is one: values and gradients, and where it is chosen."""

import enum
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.ops import fast
from ftjax.ops.fast import gpu, plain
from ftjax.ops.visible import Visible, visible_keys

on_a_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU: JAX_PLATFORMS=cuda")

# Texts of two rows of 96 tokens, and what is behind the last: padding.
ROWS = {
    "whole": ([96], [96]),
    "padded": ([96], [70]),
    "packed": ([40, 30, 26], [50, 20]),
    "many": ([2] * 48, [96]),
}


def seen(rows, window=None, T=96):
    segments, positions = np.zeros((len(rows), T), np.int32), np.zeros((len(rows), T), np.int32)
    for b, lengths in enumerate(rows):
        start = 0
        for i, length in enumerate(lengths):
            segments[b, start : start + length] = i + 1
            positions[b, start : start + length] = np.arange(length)
            start += length
    return visible_keys(jnp.asarray(positions), jnp.asarray(segments), window=window)


def outcome(form, visible, q, k, v):
    """Values where there is no padding, and gradients of a sum over them."""
    real = (visible.segments_BT > 0)[..., None, None]
    weights = jax.random.normal(jax.random.key(9), q.shape) * real

    def loss(q, k, v):
        y = form(q, k, v, None, visible, 0.3, None).astype(jnp.float32)
        return (y * weights).sum(), jnp.where(real, y, 0)

    grads, y = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return y, *grads


def drawn(dtype):
    normal = lambda seed, heads: jax.random.normal(jax.random.key(seed), (2, 96, heads, 64), dtype)
    return normal(0, 4), normal(1, 2), normal(2, 2)


@pytest.mark.parametrize("window", [None, 17, 200])
@pytest.mark.parametrize("rows", ROWS)
def test_the_call_is_its_definition(rows, window):
    """With XLA's implementation in place of the kernel, on any device."""
    visible, arrays = seen(ROWS[rows], window), drawn(jnp.float32)
    stand_in = lambda *a: gpu.attend(*a, implementation="xla")
    with jax.default_matmul_precision("highest"):
        got, wanted = (outcome(form, visible, *arrays) for form in (stand_in, plain.attend))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, wanted)


@pytest.mark.parametrize(
    ("rows", "one"),
    [("whole", True), ("padded", True), ("packed", False)],
)
def test_a_program_finds_out_whether_rows_are_packed(rows, one):
    assert bool(gpu._one_segment(seen(ROWS[rows]).segments_BT)) is one
    assert not gpu._one_segment(jnp.array([[0, 0, 1, 1]]))  # padded in front, as prompts are


def test_sizes_of_segments_are_in_their_order():
    """Padding is a segment; what does not fit is missing in the sum."""
    segments = jnp.array([[1, 1, 2, 2, 2, 0], [0, 0, 5, 5, 5, 5], [1, 2, 3, 4, 4, 0]])
    wanted = [[2, 3, 1, 0], [2, 4, 0, 0], [1, 1, 1, 2]]
    assert gpu._sizes(segments, 4).tolist() == wanted


def test_members_have_one_condition():
    """Where rows of any of them are packed, those of all take the other branch, and one alone."""
    found = gpu._over_all(gpu._one_segment)
    rows = [seen(ROWS[name]).segments_BT for name in ("whole", "whole", "packed")]
    assert jax.vmap(found)(jnp.stack(rows[:2])).tolist() == [True, True]
    assert jax.vmap(found)(jnp.stack(rows)).tolist() == [False] * 3
    nested = jax.vmap(jax.vmap(found))(jnp.stack([jnp.stack(rows)] * 2))
    assert not nested.any()
    branch = lambda x: jax.lax.cond(found(x), jnp.sin, jnp.cos, x * 1.0)
    assert "select_n" not in str(jax.make_jaxpr(jax.vmap(branch))(jnp.stack(rows)))


def by_definition(q, k, v, *, sizes_BM, scale, window, segments=True):
    """Compute what cuDNN's packed kernel is said to, from the sizes that it is given."""
    ends = jnp.cumsum(sizes_BM, axis=1)
    number = (jnp.arange(q.shape[1])[None, :, None] >= ends[:, None]).sum(-1)
    number = number if segments else jnp.zeros_like(number)
    at = jnp.broadcast_to(jnp.arange(q.shape[1]), number.shape)
    visible = Visible(at, number, None, 0, window)
    return plain.attend(q, k, v, None, visible, scale, None)


def test_a_kernel_is_asked_before_it_is_used():
    """One that mixes segments, or forgets the window, or gives no numbers, is found out."""
    assert gpu._distance(by_definition) < gpu.CLOSE
    mixing = functools.partial(by_definition, segments=False)
    wide = lambda *a, window, **b: by_definition(*a, window=None, **b)
    empty = lambda *a, **b: by_definition(*a, **b) + jnp.nan
    assert all(gpu._distance(bad) > 5 * gpu.CLOSE for bad in (mixing, wide, empty))


class Cudnn:
    """A stand-in for JAX's module: computes what its documentation says of its arguments."""

    MaskType = enum.Enum("MaskType", "PADDING_CAUSAL")

    @staticmethod
    def dot_product_attention(
        q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type,
        sliding_window_length,
    ):  # fmt: skip
        assert mask_type is Cudnn.MaskType.PADDING_CAUSAL
        assert q_offsets is kv_offsets
        assert q_seqlen is kv_seqlen
        at = jnp.arange(q.shape[1])[None, :, None]
        inside = (at >= q_offsets[:, None, :-1]) & (at < (q_offsets[:, :-1] + q_seqlen)[:, None])
        inside &= q_offsets[:, None, :-1] >= 0
        assert bool((inside.sum(-1) == 1).all())  # each token is of one segment
        number = inside.argmax(-1)
        visible = Visible(
            jnp.broadcast_to(at[..., 0], number.shape), number, None, 0, sliding_window_length
        )
        return plain.attend(q, k, v, None, visible, scale, None)


@pytest.mark.parametrize("window", [None, 17])
@pytest.mark.parametrize("rows", sorted(set(ROWS) - {"many"}))
def test_segments_are_told_as_the_kernel_wants_them(rows, window):
    """Whose offsets are of a row, with -1 behind the last; padding is computed as defined too."""
    visible, (q, k, v) = seen(ROWS[rows], window), drawn(jnp.float32)
    sizes = gpu._sizes(visible.segments_BT, 8)
    got = gpu._packed(Cudnn, q, k, v, sizes_BM=sizes, scale=0.3, window=window)
    with jax.default_matmul_precision("highest"):
        wanted = plain.attend(q, k, v, None, visible, 0.3, None)
    real = np.asarray(visible.segments_BT) > 0
    np.testing.assert_allclose(got[real], wanted[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("axes", [dict(fsdp=2), dict(data=2, tensor=2), dict(tensor=4)])
def test_devices_keep_their_rows_and_heads(axes, before):
    """Also where key heads are fewer than the devices; nothing is gathered for the condition."""
    visible = seen(ROWS["packed"])
    arrays, letters = drawn(jnp.float32), ("BTNH", "BSKH", "BSKH")
    if before:  # virtual tokens: keys that no query is at
        own = (x[:, before:] for x in (visible.positions_BT, visible.segments_BT))
        visible, arrays = visible_keys(*own, before=before), (arrays[0][:, before:], *arrays[1:])
    form = lambda *a: gpu.attend(*a[:3], None, visible, 0.3, None, implementation="xla")
    wanted = plain.attend(*arrays, None, visible, 0.3, None)
    count = int(np.prod(list(axes.values())))
    mesh = meshes.make(**dict(data=1) | axes, devices=jax.devices()[:count])
    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        placed = [
            jax.device_put(x, jax.NamedSharding(mesh, meshes.spec(own, x.shape, mesh)))
            for x, own in zip(arrays, letters, strict=True)
        ]
        program = jax.jit(form).lower(*placed).compile()
        got = program(*placed)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    if "fsdp" in axes:
        assert "all-gather" not in program.as_text()


@on_a_gpu
@pytest.mark.parametrize("window", [None, 17])
@pytest.mark.parametrize("rows", ROWS)
def test_the_kernel_is_the_definition(rows, window):
    """bfloat16 has 8 bits: values and gradients lie within a few of their last ones.

    "Many" are more segments than the kernel reads: it has a mask.
    """
    visible, arrays = seen(ROWS[rows], window), drawn(jnp.bfloat16)
    with jax.set_mesh(meshes.make(devices=jax.devices()[:1])):
        got = outcome(fast.attend, visible, *arrays)
    exact = [x.astype(jnp.float32) for x in arrays]
    wanted = outcome(plain.attend, visible, *exact)
    for ours, theirs in zip(got, wanted, strict=True):
        apart = jnp.linalg.norm(ours.astype(jnp.float32) - theirs) / jnp.linalg.norm(theirs)
        assert apart < 0.01, float(apart)


@on_a_gpu
def test_the_kernel_of_packed_rows_is_right_here():
    assert gpu._packed_kernel() is not None


@on_a_gpu
def test_the_kernel_is_chosen():
    """In both kinds of rows; not for float32, which it would not multiply exactly."""

    def calls(dtype):
        run = lambda q, k, v: fast.attend(q, k, v, None, seen(ROWS["packed"]), 0.3, None)
        with jax.set_mesh(meshes.make(devices=jax.devices()[:1])):
            return jax.jit(run).lower(*drawn(dtype)).compile().as_text().count("cudnn$fmha")

    assert calls(jnp.bfloat16) >= 2
    assert calls(jnp.float32) == 0
