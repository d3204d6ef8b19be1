"""Attention by blocks that keeps no scores (arXiv:2205.14135), on every backend.

The backward pass makes the weights again from the log-sums of their rows, so that no [B,N,T,S]
array outlives its block. Short rows are a few blocks of queries, written out one after another:
each sees the keys up to its own end in one product. Long rows are pairs of a block of queries and
one of keys in a loop (`pairs`): what a pair needs at once does not grow with the row, and neither
does the program. Pairs that the causal mask or a window hides are not there.
"""

import functools

import jax
import jax.numpy as jnp

from ftjax.ops import products, remat, scores, softcap
from ftjax.ops.fast import pairs
from ftjax.ops.visible import SHORT, Visible

BLOCK = 128  # shorter ones would leave too little to each product
# Tokens of a row in blocks that are written out, which a CPU computes a quarter faster up to here
# and a quarter slower at twice as many; they take longer to compile, and more memory.
LONGEST = SHORT

_product = products.summed


def attend(q_BTNH, k_BSKH, v_BSKH, sink_N, visible: Visible, scale: float, cap: float | None):
    """Compute `plain.attend` with a gradient of its own."""
    T, S, in_parts = q_BTNH.shape[1], k_BSKH.shape[1], visible.row is not None
    if (S if in_parts else T) > LONGEST:
        return pairs.attend(q_BTNH, k_BSKH, v_BSKH, sink_N, visible, scale, cap)
    ends = [(start, min(start + BLOCK, T)) for start in range(0, T, BLOCK)]
    # Keys that are more than the queries stand before them, and all queries may see them.
    # Of a part of a row nobody knows the place: it may see all keys.
    blocks = tuple((start, stop, S if in_parts else S - T + stop) for start, stop in ends)
    run = lambda q, k, v: _attend(q, k, v, visible.mask(), (scale, cap), blocks)
    return scores.over_key_heads(run, q_BTNH, k_BSKH, v_BSKH, sink_N, keep=not in_parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(q_BKMH, k_BKSH, v_BKSH, mask_BTS, numbers, blocks):
    """Compute the output and the log-sums [B,K,M] of the weights.

    `numbers` are scale and cap; `blocks` (first query, end of queries, end of keys) triples.
    """
    return _forward(q_BKMH, k_BKSH, v_BKSH, mask_BTS, numbers, blocks)[0]


def _group(mask_BTS, q_BKMH) -> int:
    return q_BKMH.shape[2] // mask_BTS.shape[1]


def _rows(block, group: int) -> slice:
    """Rows of q, and of all that is made of it: `group` of them are of one position."""
    return slice(block[0] * group, block[1] * group)


def _bias(mask_BTS, block, group: int):
    start, stop, end = block
    return scores.bias(mask_BTS[:, start:stop, :end], group)


def _forward(q, k, v, mask, numbers, blocks):
    """The weights are normalised after they are applied, and not kept: their log-sum is."""
    (scale, cap), outputs, logsums, group = numbers, [], [], _group(mask, q)
    for block in blocks:
        rows, end = _rows(block, group), block[2]
        z = _product("bkmh,bksh->bkms", q[:, :, rows] * scale, k[:, :, :end])
        z = softcap.apply(z, cap) + _bias(mask, block, group)
        largest = z.max(-1, keepdims=True)
        weights = jnp.exp(z - largest)
        total = weights.sum(-1, keepdims=True)
        mixed = _product("bkms,bksh->bkmh", weights.astype(v.dtype), v[:, :, :end])
        outputs.append((mixed / total).astype(q.dtype))
        logsums.append((largest + jnp.log(total))[..., 0])
    out, logsum = (jnp.concatenate(x, axis=2) for x in (outputs, logsums))
    out, logsum = remat.keep(out), remat.keep_sum(logsum)
    return (out, logsum), (q, k, v, mask, out, logsum)


def _backward(numbers, blocks, residuals, gradients):
    """Make the weights again; dz = weights * (g v^T - <g, out> + g of the log-sum).

    (A log-sum's derivatives by its scores are the weights.)
    The sums for dk and dv stand features first, which a CPU multiplies faster.
    """
    (scale, cap), (q, k, v, mask, out, logsum) = numbers, residuals
    g, g_logsum = gradients
    through = (g.astype(jnp.float32) * out).sum(-1, keepdims=True) - g_logsum[..., None]
    dq, dk, dv, group = [], None, None, _group(mask, q)
    for block in reversed(blocks):  # the last one sees all keys
        rows, end = _rows(block, group), block[2]
        q_i, g_i, k_i, v_i = q[:, :, rows] * scale, g[:, :, rows], k[:, :, :end], v[:, :, :end]
        z = softcap.apply(_product("bkmh,bksh->bkms", q_i, k_i), cap)
        weights = jnp.exp(z + _bias(mask, block, group) - logsum[:, :, rows, None])
        dz = weights * (_product("bkmh,bksh->bkms", g_i, v_i) - through[:, :, rows])
        dz = (dz * softcap.slope(z, cap)).astype(q.dtype)
        dq.append(scale * _product("bkms,bksh->bkmh", dz, k_i))
        dv = _add(dv, _product("bkms,bkmh->bkhs", weights.astype(g.dtype), g_i))
        dk = _add(dk, _product("bkms,bkmh->bkhs", dz, q_i))
    dq, dk, dv = jnp.concatenate(dq[::-1], axis=2), dk.swapaxes(2, 3), dv.swapaxes(2, 3)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


def _add(total, part):
    """Add what a block gives for the keys that it sees, the first ones."""
    return part if total is None else total.at[..., : part.shape[-1]].add(part)


_attend.defvjp(_forward, _backward)
