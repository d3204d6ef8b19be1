"""Forms for a GPU alone: kernels of its vendor; see `plain` for what they compute.

Chosen in `by_platform`, which knows what they are able to do.
"""

import concurrent.futures
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import mesh as meshes
from ftjax.ops import context_parallel
from ftjax.ops.fast import flash, plain
from ftjax.ops.visible import Visible

MASKED = 4096  # tokens of a row whose mask a kernel may read: 32 MiB a row
# Of a row, padding among them, that a kernel reads without a mask. Empty ones cost time too: with
# 32 a row of one text takes 1.4 times as long as in the causal kernel (scripts/bench_kernels.py).
SEGMENTS = 32
CLOSE = 0.02  # bfloat16 rounds to 1/256 of a number
HOPPER = 9  # the compute capability from which it reads more than one


def attend(
    q_BTNH, k_BSKH, v_BSKH, sink_N, visible: Visible, scale: float, cap: float | None, *,
    implementation: str = "cudnn",
):  # fmt: skip
    """Compute attention by cuDNN, which neither caps scores nor knows a sink.

    Of packed rows it is told where segments begin, and computes nothing between them; before
    Hopper it knows no more than one in a row, and padding behind it then sees the row. Which rows
    a batch has, a program finds out as it runs: others have a mask, [B,T,S] numbers of which all
    are computed, or are blocks of products where it would be too large.
    """
    del sink_N, cap
    one = functools.partial(_rows, scale=scale, implementation=implementation)
    mesh = meshes.current()
    if mesh is None or mesh.size == 1 or not meshes.free_axes(mesh):
        return one(q_BTNH, k_BSKH, v_BSKH, visible)
    # Each device its rows and heads, and its own condition: the compiler would give all of them to
    # every device, since it does not look into branches.
    keys = tuple(context_parallel.for_shards(q_BTNH, x) for x in (k_BSKH, v_BSKH))
    given = visible.positions_BT, visible.segments_BT, visible.mask_BTS

    def part(q, keys, positions, segments, mask):
        own = dict(positions_BT=positions, segments_BT=segments, mask_BTS=mask)
        return one(q, *keys, dataclasses.replace(visible, **own))

    letters = "BTNH", ("BSKH",) * 2, "BT", "BT", "BTS"
    return context_parallel.over_devices(part, (q_BTNH, keys, *given), letters)


def _rows(q_BTNH, k_BSKH, v_BSKH, visible: Visible, *, scale: float, implementation: str):
    """Compute the rows and heads of one device."""
    run = functools.partial(
        jax.nn.dot_product_attention, scale=scale, implementation=implementation
    )
    masked = lambda *qkv: run(*qkv, mask=visible.mask()[:, None])
    if k_BSKH.shape[1] > MASKED:
        masked = lambda *qkv: flash.attend(*qkv, None, visible, scale, None)
    if visible.before or visible.row is not None:  # queries and keys are not at the same places
        return masked(q_BTNH, k_BSKH, v_BSKH)
    T, window = q_BTNH.shape[1], visible.window
    window = None if window is None or window >= T else window
    if implementation == "cudnn" and (kernel := _packed_kernel()):
        sizes = _sizes(visible.segments_BT, SEGMENTS)
        suits = _over_all(lambda sizes_BM: (sizes_BM.sum(1) == T).all())(sizes)
        first = functools.partial(kernel, sizes_BM=sizes, scale=scale, window=window)
    else:
        suits = _over_all(_one_segment)(visible.segments_BT)
        places = None if window is None else (window - 1, 0)
        first = functools.partial(run, is_causal=True, local_window_size=places)
    return jax.lax.cond(suits, first, masked, q_BTNH, k_BSKH, v_BSKH)


def _over_all(predicate: Callable) -> Callable:
    """Let a predicate over [B,...] say one thing of all that `jax.vmap` maps over.

    A condition that differs between them would run both of its branches.
    """
    found = jax.custom_batching.custom_vmap(predicate)

    @found.def_vmap
    def all_of_them(axis_size, in_batched, x):
        del axis_size
        rows = x.reshape(-1, *x.shape[2:]) if in_batched[0] else x
        return _over_all(predicate)(rows), False

    return found


def _one_segment(segments_BT: jax.Array) -> jax.Array:
    """Return whether every row is one segment, and padding behind it."""
    own, following = segments_BT[:, :-1], segments_BT[:, 1:]
    return ((following == own) | (following == 0)).all()


def _sizes(segments_BT: jax.Array, most: int) -> jax.Array:
    """Count the tokens of each row's segments in their order, padding among them: [B,most]."""
    begins = segments_BT[:, 1:] != segments_BT[:, :-1]
    number_BT = jnp.pad(jnp.cumsum(begins, axis=1), ((0, 0), (1, 0)))
    return (number_BT[:, :, None] == jnp.arange(most)).sum(1).astype(jnp.int32)


@functools.cache
def _packed_kernel() -> Callable | None:
    """Return cuDNN's attention over packed rows, if the GPUs here and this JAX have it."""
    capability = getattr(jax.devices()[0], "compute_capability", "0.0")
    if int(str(capability).partition(".")[0]) < HOPPER:
        return None
    try:
        # JAX names it in no public module: `jax.nn.dot_product_attention` has no segments.
        from jax._src.cudnn import fused_attention_stablehlo as cudnn

        kernel = functools.partial(_packed, cudnn)
        # In a thread of its own, which knows nothing of what is being traced in this one.
        with concurrent.futures.ThreadPoolExecutor(1) as own:
            apart = own.submit(_distance, kernel).result()
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        apart, why = math.inf, " ".join(str(error).split())[:200]
    else:
        why = f"off by {apart:.3f} of the definition"
    if apart < CLOSE:
        return kernel
    warnings.warn(f"attention: packed rows have a mask, for cuDNN's kernel is {why}", stacklevel=2)
    return None


def _distance(kernel: Callable) -> float:
    """Return how far a kernel of packed rows is from the definition, as a share: the largest.

    What a private function of another release means by its arguments, nobody promises; so it is
    asked before it is used, for values and gradients, with a window and without.
    """
    T = 192
    shapes = (2, T, 4, 64), (2, T, 2, 64), (2, T, 2, 64)
    # Texts longer and shorter than a block of the kernel, one of a single token, and padding.
    segments = jnp.asarray(np.searchsorted([80, 81, 150], np.arange(T), side="right"))
    segments = jnp.stack([segments, jnp.where(jnp.arange(T) < 100, 1, 0)])
    places = jnp.broadcast_to(jnp.arange(T), segments.shape)  # only differences are asked for
    keys = jax.random.split(jax.random.key(0), 4)
    *arrays, weights = map(jax.random.normal, keys, (*shapes, shapes[0]))
    arrays = [x.astype(jnp.bfloat16) for x in arrays]
    found = []
    for window in (None, 40):
        visible = Visible(places, segments, None, 0, window)
        own = functools.partial(
            kernel, sizes_BM=_sizes(segments, SEGMENTS), scale=0.2, window=window
        )
        exact = lambda *a, visible=visible: plain.attend(*a, None, visible, 0.2, None)
        got, wanted = (
            _values_and_gradients(form, weights, [x.astype(kind) for x in arrays])
            for form, kind in ((own, jnp.bfloat16), (exact, jnp.float32))
        )
        norm = lambda x: jnp.linalg.norm(x.astype(jnp.float32).ravel())
        found += [norm(a - b) / norm(b) for a, b in zip(got, wanted, strict=True)]
    return float(max(found)) if jnp.isfinite(jnp.stack(found)).all() else math.inf


def _values_and_gradients(form: Callable, weights, arrays) -> tuple[jax.Array, ...]:
    def loss(*arrays):
        y = form(*arrays).astype(jnp.float32)
        return (weights * y).sum(), y

    grads, y = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return y, *grads


def _packed(cudnn, q_BTNH, k_BSKH, v_BSKH, *, sizes_BM, scale: float, window: int | None):
    """Run the kernel; empty segments are -1, and follow the others."""
    sizes = jnp.where(sizes_BM > 0, sizes_BM, -1)
    begins = jnp.where(sizes_BM > 0, jnp.cumsum(sizes_BM, axis=1) - sizes_BM, -1)
    begins = jnp.pad(begins, ((0, 0), (0, 1)), constant_values=-1)
    return cudnn.dot_product_attention(
        q_BTNH, k_BSKH, v_BSKH, q_seqlen=sizes, kv_seqlen=sizes, q_offsets=begins,
        kv_offsets=begins, scale=scale, mask_type=cudnn.MaskType.PADDING_CAUSAL,
        sliding_window_length=window,
    )  # fmt: skip
