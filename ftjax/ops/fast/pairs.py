"""Attention of long rows: one loop over pairs of a block of queries and a block of keys.

The softmax is made while keys come by (arXiv:1805.02867): a row keeps its largest score, the sum of
its weights and their mix so far. Memory is linear in the row, the compiled program is one body.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.ops import products, remat, scores, softcap
from ftjax.ops import visible as seeing
from ftjax.ops.visible import Visible

MOST = 512  # queries of a block, and keys: products large enough for every backend
LANES = 128  # blocks are multiples of what accelerators compute with at once


class _Static(NamedTuple):
    """What the loop is compiled for; `group` rows of queries are of one position."""

    scale: float
    cap: float | None
    window: int | None
    group: int
    size: int  # of a block of keys, and of one of positions of queries
    turns: tuple[tuple[int, int], ...]  # (block of queries, block of keys)


def attend(q_BTNH, k_BSKH, v_BSKH, sink_N, visible: Visible, scale: float, cap: float | None):
    """Compute `plain.attend` with a gradient of its own."""
    (T, N), (S, K), in_parts = q_BTNH.shape[1:3], k_BSKH.shape[1:3], visible.row is not None
    # As even as the lanes allow: a last block that is nearly empty costs as much as a full one.
    size = -(-T // math.ceil(T / MOST) // LANES) * LANES
    turns = _turns(T, S, size, visible.window, anywhere=in_parts)
    static = _Static(scale, cap, visible.window, N // K, size, turns)
    run = functools.partial(_padded, static, visible)
    return scores.over_key_heads(run, q_BTNH, k_BSKH, v_BSKH, sink_N, keep=not in_parts)


def _padded(static: _Static, visible: Visible, q, k, v):
    """Fill the last blocks with rows of zeros.

    Added keys are of no segment. Added queries see the keys of segment 0 or none at all: what they
    get is finite, and cut off.
    """
    size, M = static.size, q.shape[2]
    q = _fill(q, size * static.group, 2)
    k, v = (_fill(x, size, 2) for x in (k, v))
    queries = tuple(_fill(x, size, 1) for x in (visible.positions_BT, visible.segments_BT))
    positions, segments = visible.keys()
    keys = _fill(positions, size, 1), _fill(segments, size, 1, value=seeing.EVERY - 1)
    out, logsum = _attend(static, q, k, v, queries, keys)
    return out[:, :, :M], logsum[:, :, :M]


def _fill(x, size: int, axis: int, *, value=0):
    widths = [(0, -n % size if i == axis else 0) for i, n in enumerate(x.shape)]
    return jnp.pad(x, widths, constant_values=value)


def _turns(
    T: int, S: int, size: int, window: int | None, *, anywhere: bool = False
) -> tuple[tuple[int, int], ...]:
    """List the pairs of blocks that are not hidden whole, by the blocks of queries.

    anywhere: the queries are a part of a row whose place is known when the program runs.
    """
    before = S - T

    def is_seen(i: int, j: int) -> bool:
        if anywhere:
            return True
        if j * size >= before + (i + 1) * size:
            return False  # all later
        if window is None or j * size < before:
            return True
        # Positions of a segment rise along the row as places do.
        return before + i * size - ((j + 1) * size - 1) < window

    blocks = [math.ceil(n / size) for n in (T, S)]
    return tuple((i, j) for i in range(blocks[0]) for j in range(blocks[1]) if is_seen(i, j))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static: _Static, q, k, v, queries, keys):
    """Compute the output [B,K,M,H] and the log-sums of the weights [B,K,M] float32."""
    return _forward(static, q, k, v, queries, keys)[0]


def _of(x, at, size: int, axis: int = 2):
    """Cut the block `at` of x."""
    return jax.lax.dynamic_slice_in_dim(x, at * size, size, axis)


def _put(x, part, at, size: int, axis: int = 2):
    return jax.lax.dynamic_update_slice_in_dim(x, part, at * size, axis)


def _scores(static: _Static, q_i, k_j, queries, keys, i, j):
    """Compute capped scores of a pair, and what its mask adds to them."""
    z = softcap.apply(products.summed("bkmh,bksh->bkms", q_i, k_j), static.cap)
    cut = lambda xs, at: tuple(_of(x, at, static.size, 1) for x in xs)
    mask_BTS = seeing.causal_mask(cut(queries, i), cut(keys, j), window=static.window)
    return z, scores.bias(mask_BTS, static.group)


def _forward(static: _Static, q, k, v, queries, keys):
    size, rows = static.size, static.size * static.group

    def turn(state, pair):
        i, j = pair
        q_i, k_j, v_j = _of(q, i, rows) * static.scale, _of(k, j, size), _of(v, j, size)
        z = sum(_scores(static, q_i, k_j, queries, keys, i, j))
        mix, largest, total = (_of(x, i, rows) for x in state)
        # A block without a seen key counts 1 for each: the first seen one makes that e^-1e30.
        higher = jnp.maximum(largest, z.max(-1))
        weights, shrink = jnp.exp(z - higher[..., None]), jnp.exp(largest - higher)
        added = products.summed("bkms,bksh->bkmh", weights.astype(v.dtype), v_j)
        mix = mix * shrink[..., None] + added
        total = total * shrink + weights.sum(-1)
        new = mix, higher, total
        return tuple(_put(x, n, i, rows) for x, n in zip(state, new, strict=True)), None

    like_BKM = q.shape[:3]
    start = (
        jnp.zeros((*like_BKM, v.shape[3]), jnp.float32),
        jnp.full(like_BKM, scores.MASKED, jnp.float32),
        jnp.zeros(like_BKM, jnp.float32),
    )
    (mix, largest, total), _ = jax.lax.scan(turn, start, _indices(static))
    out = remat.keep((mix / total[..., None]).astype(q.dtype))
    logsum = remat.keep_sum(largest + jnp.log(total))
    return (out, logsum), (q, k, v, queries, keys, out, logsum)


def _indices(static: _Static):
    return tuple(jnp.asarray(np.array(static.turns, np.int32).T))


def _backward(static: _Static, residuals, gradients):
    """Make the weights again, pair by pair; the formula is that of `flash`."""
    q, k, v, queries, keys, out, logsum = residuals
    g, g_logsum = gradients
    through = (g.astype(jnp.float32) * out).sum(-1) - g_logsum
    size, rows = static.size, static.size * static.group

    def turn(sums, pair):
        i, j = pair
        q_i, g_i = _of(q, i, rows) * static.scale, _of(g, i, rows)
        k_j, v_j = _of(k, j, size), _of(v, j, size)
        z, bias = _scores(static, q_i, k_j, queries, keys, i, j)
        weights = jnp.exp(z + bias - _of(logsum, i, rows)[..., None])
        dz = products.summed("bkmh,bksh->bkms", g_i, v_j) - _of(through, i, rows)[..., None]
        dz = (weights * dz * softcap.slope(z, static.cap)).astype(q.dtype)
        parts = (
            static.scale * products.summed("bkms,bksh->bkmh", dz, k_j),
            products.summed("bkms,bkmh->bksh", dz, q_i),
            products.summed("bkms,bkmh->bksh", weights.astype(g.dtype), g_i),
        )
        places = (i, rows), (j, size), (j, size)
        add = lambda total, part, at: _put(total, _of(total, *at) + part, *at)
        return tuple(map(add, sums, parts, places)), None

    # float32: a row of keys adds what as many blocks give as there are.
    start = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    sums, _ = jax.lax.scan(turn, start, _indices(static))
    # Positions and segments are integers: they have no cotangent.
    return *(x.astype(like.dtype) for x, like in zip(sums, (q, k, v), strict=True)), None, None


_attend.defvjp(_forward, _backward)
