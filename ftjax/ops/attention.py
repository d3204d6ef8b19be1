"""Scaled dot-product attention with grouped key-value heads (arXiv:2305.13245) and masks.

The product runs as plain batched matmuls over `[B,K,T*G,H] x [B,K,S,H]`: the G = N/K query heads of
a key-value head are rows of one matrix, so keys and values are never repeated. The backward pass
makes the weights again from the log-sums of their rows (arXiv:2205.14135), so that no [B,N,T,S]
array outlives its block. With a cap c, a score z becomes c tanh(z / c) before the mask
(arXiv:2408.00118).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.ops import products, remat, softcap

LEAST_BLOCK, BLOCKS = 128, 8
MASKED = -1e30  # finite, so that a fully masked row gives an average and not NaN


def causal_mask(query, key, *, window: int | None = None) -> jax.Array:
    """Return which keys a query may see: `mask_BTS`, from positions, segments and a sliding window.

    `query` and `key` are (positions [B,T], segments [B,T]) pairs. A query sees keys of its own
    segment that are not later, and with a window only the last `window` positions.
    """
    (q_pos, q_seg), (k_pos, k_seg) = query, key
    mask = (q_pos[:, :, None] >= k_pos[:, None, :]) & (q_seg[:, :, None] == k_seg[:, None, :])
    if window is not None:
        mask &= q_pos[:, :, None] - k_pos[:, None, :] < window
    return mask


def past_mask(query, *, slots: int, window: int | None = None) -> jax.Array:
    """Return which cache slots (slot = position) a query may see: those before its row's tokens.

    `query` is as in `causal_mask`; the tokens of a row are one segment, beside padding (0).
    """
    positions_BT, segments_BT = query
    slot_BS = jnp.broadcast_to(jnp.arange(slots), (positions_BT.shape[0], slots))
    mask = causal_mask(query, (slot_BS, jnp.ones_like(slot_BS)), window=window)
    first_B = jnp.where(segments_BT > 0, positions_BT, slots).min(axis=1)
    return mask & (slot_BS < first_B[:, None])[:, None]


def see_prefix(mask_BTS, positions_BT, *, count: int, window: int | None = None) -> jax.Array:
    """Put `count` keys before the others that queries of every segment see: [B,T,count+S].

    Their positions are the first ones, so `positions_BT` start at `count`; a window applies.
    """
    if not count:
        return mask_BTS
    since_BTP = positions_BT[:, :, None] - jnp.arange(count)
    seen_BTP = since_BTP < window if window else since_BTP > 0
    return jnp.concatenate([seen_BTP, mask_BTS], axis=-1)


def attend_causal(
    q_BTNH, k_BSKH, v_BSKH, mask_BTS, *, scale: float, cap: float | None = None, sink_N=None
) -> jax.Array:
    """Compute softmax(scale * q k^T, capped, masked) v -> [B,T,N,H]; the softmax is in float32.

    No query sees a later place of its row, whatever the mask says: packed or plain rows. Keys that
    are more than the queries stand before them, and all queries may see them.

    `sink_N` are scores of one more key of every head, whose value is zero: weights sum to less than
    one (arXiv:2309.17453). Values may have other features than keys.

    The queries go in blocks, each against the keys up to its own end, which saves nearly half of
    the products and of the memory. There are at most `BLOCKS` of them, so long rows compile as fast
    as short ones.
    """
    T = q_BTNH.shape[1]
    before, size = k_BSKH.shape[1] - T, max(LEAST_BLOCK, -(-T // BLOCKS))
    ends = [(start, min(start + size, T)) for start in range(0, T, size)]
    blocks = tuple((start, stop, before + stop) for start, stop in ends)
    return _attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS, sink_N, (scale, cap), blocks)


def attend_cached(
    q_BTNH, parts, *, scale: float, cap: float | None = None, sink_N=None
) -> jax.Array:
    """Compute the same over keys in parts, (k_BKHS, v_BKSH, mask_BTS) each: a cache, new tokens.

    Scores of the parts are joined, keys and values never: a cache is read where it lies. Its keys
    have their features before the slots, so that the scores of one query are sums along rows.
    """
    keys, values, masks = zip(*parts, strict=True)
    q = _by_key_head(q_BTNH, keys[0].shape[1])
    scores = [_product("bkmh,bkhs->bkms", q * scale, k) for k in keys]
    mask_BTS = jnp.concatenate(masks, -1)
    block = (0, *mask_BTS.shape[1:])
    scores = softcap.apply(jnp.concatenate(scores, -1), cap) + _bias(mask_BTS, block, q)
    largest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    cuts = np.cumsum([v.shape[2] for v in values])[:-1]
    mix = lambda w, v: _product("bkms,bksh->bkmh", w.astype(v.dtype), v)
    mixed = sum(map(mix, jnp.split(weights, cuts, axis=-1), values))
    total = weights.sum(-1, keepdims=True)
    out = mixed / total
    if sink_N is not None:
        out = _share(out, (largest + jnp.log(total))[..., 0], sink_N)
    return _by_query_head(out.astype(q.dtype), q_BTNH.shape)


def _attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS, sink_N, numbers, blocks):
    """`numbers` are scale and cap; `blocks` (first query, end of queries, end of keys) triples."""
    q = _by_key_head(q_BTNH, k_BSKH.shape[2])
    q, k, v = map(remat.keep, (q, k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)))
    out, logsum = _core(q, k, v, mask_BTS, numbers, blocks)
    if sink_N is not None:
        out = _share(out, logsum, sink_N)
    return _by_query_head(out, q_BTNH.shape)


def _share(out_BKMH, logsum_BKM, sink_N):
    """Leave to the sink its part of the weights, e^sink of e^sink + e^logsum."""
    _, K, M = logsum_BKM.shape
    sink_K1G = sink_N.astype(jnp.float32).reshape(K, 1, -1)
    sink_KM = jnp.tile(sink_K1G, (1, M // sink_K1G.shape[-1], 1)).reshape(K, M)
    return (out_BKMH * jax.nn.sigmoid(logsum_BKM - sink_KM)[..., None]).astype(out_BKMH.dtype)


def _by_key_head(q_BTNH, heads: int):
    """-> [B,K,M,H]: the G queries of a position, and the positions, of each key-value head."""
    B, T, N, H = q_BTNH.shape
    return q_BTNH.reshape(B, T, heads, N // heads, H).swapaxes(1, 2).reshape(B, heads, -1, H)


def _by_query_head(out_BKMH, shape):
    """Undo `_by_key_head`; the features are those of the values."""
    (B, T, N, _), (_, K, _, H) = shape, out_BKMH.shape
    return out_BKMH.reshape(B, K, T, N // K, H).swapaxes(1, 2).reshape(B, T, N, H)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _core(q_BKMH, k_BKSH, v_BKSH, mask_BTS, numbers, blocks):
    """-> [B,K,M,H] and the logarithms of the sums of weights [B,K,M]."""
    return _forward(q_BKMH, k_BKSH, v_BKSH, mask_BTS, numbers, blocks)[0]


_product = products.summed


def _rows(block, mask_BTS, q_BKMH) -> slice:
    """Rows of q, and of all that is made of it: G = M/T of them are of one position."""
    group = q_BKMH.shape[2] // mask_BTS.shape[1]
    return slice(block[0] * group, block[1] * group)


def _bias(mask_BTS, block, q_BKMH):
    """-> [B,1,M,S] of a block: 0 where a key is seen."""
    start, stop, end = block
    group = q_BKMH.shape[2] // mask_BTS.shape[1]
    seen = mask_BTS[:, start:stop, :end]
    return jnp.repeat(jnp.where(seen, 0.0, MASKED), group, axis=1)[:, None]


def _forward(q, k, v, mask, numbers, blocks):
    """The weights are normalised after they are applied, and not kept: their log-sum is."""
    (scale, cap), outputs, logsums = numbers, [], []
    for block in blocks:
        rows, end = _rows(block, mask, q), block[2]
        scores = _product("bkmh,bksh->bkms", q[:, :, rows] * scale, k[:, :, :end])
        scores = softcap.apply(scores, cap) + _bias(mask, block, q)
        largest = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(-1, keepdims=True)
        mixed = _product("bkms,bksh->bkmh", weights.astype(v.dtype), v[:, :, :end])
        outputs.append((mixed / total).astype(q.dtype))
        logsums.append((largest + jnp.log(total))[..., 0])
    out, logsum = (remat.keep(jnp.concatenate(x, axis=2)) for x in (outputs, logsums))
    return (out, logsum), (q, k, v, mask, out, logsum)


def _backward(numbers, blocks, residuals, gradients):
    """Make the weights again; d scores = weights * (g v^T - <g, out> + g of the log-sum).

    (arXiv:2205.14135; a log-sum's derivatives by its scores are the weights.)
    The sums for dk and dv stand features first, which a CPU multiplies faster.
    """
    (scale, cap), (q, k, v, mask, out, logsum) = numbers, residuals
    g, g_logsum = gradients
    through = (g.astype(jnp.float32) * out).sum(-1, keepdims=True) - g_logsum[..., None]
    dq, dk, dv = [], None, None
    for block in reversed(blocks):  # the last one sees all keys
        rows, end = _rows(block, mask, q), block[2]
        q_i, g_i, k_i, v_i = q[:, :, rows] * scale, g[:, :, rows], k[:, :, :end], v[:, :, :end]
        scores = softcap.apply(_product("bkmh,bksh->bkms", q_i, k_i), cap)
        weights = jnp.exp(scores + _bias(mask, block, q) - logsum[:, :, rows, None])
        dscores = weights * (_product("bkmh,bksh->bkms", g_i, v_i) - through[:, :, rows])
        dscores = (dscores * softcap.slope(scores, cap)).astype(q.dtype)
        dq.append(scale * _product("bkms,bksh->bkmh", dscores, k_i))
        dv = _add(dv, _product("bkms,bkmh->bkhs", weights.astype(g.dtype), g_i))
        dk = _add(dk, _product("bkms,bkmh->bkhs", dscores, q_i))
    dq, dk, dv = jnp.concatenate(dq[::-1], axis=2), dk.swapaxes(2, 3), dv.swapaxes(2, 3)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


def _add(total, part):
    """Add what a block gives for the keys that it sees, the first ones."""
    return part if total is None else total.at[..., : part.shape[-1]].add(part)


_core.defvjp(_forward, _backward)
