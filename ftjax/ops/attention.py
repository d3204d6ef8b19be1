"""Scaled dot-product attention with grouped key-value heads (arXiv:2305.13245) and masks.

The product runs as plain batched matmuls over `[B,K,T*G,H] x [B,K,S,H]`: the G = N/K query heads of
a key-value head are rows of one matrix, so keys and values are never repeated. With a cap c, a
score z becomes c tanh(z / c) before the mask (arXiv:2408.00118).
"""

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.ops import fast, products, remat, scores, softcap


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
    """
    q = _by_key_head(q_BTNH, k_BSKH.shape[2])
    q, k, v = map(remat.keep, (q, k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)))
    out, logsum = fast.attend(q, k, v, mask_BTS, scale, cap)
    if sink_N is not None:
        out = _share(out, logsum, sink_N)
    return _by_query_head(out, q_BTNH.shape)


def attend_cached(
    q_BTNH, parts, *, scale: float, cap: float | None = None, sink_N=None
) -> jax.Array:
    """Compute the same over keys in parts, (k_BKHS, v_BKSH, mask_BTS) each: a cache, new tokens.

    Scores of the parts are joined, keys and values never: a cache is read where it lies. Its keys
    have their features before the slots, so that the scores of one query are sums along rows.
    """
    keys, values, masks = zip(*parts, strict=True)
    q = _by_key_head(q_BTNH, keys[0].shape[1])
    parts = [products.summed("bkmh,bkhs->bkms", q * scale, k) for k in keys]
    mask_BTS = jnp.concatenate(masks, -1)
    group = q.shape[2] // mask_BTS.shape[1]
    z = softcap.apply(jnp.concatenate(parts, -1), cap) + scores.bias(mask_BTS, group)
    largest = z.max(-1, keepdims=True)
    weights = jnp.exp(z - largest)
    cuts = np.cumsum([v.shape[2] for v in values])[:-1]
    mix = lambda w, v: products.summed("bkms,bksh->bkmh", w.astype(v.dtype), v)
    mixed = sum(map(mix, jnp.split(weights, cuts, axis=-1), values))
    total = weights.sum(-1, keepdims=True)
    out = mixed / total
    if sink_N is not None:
        out = _share(out, (largest + jnp.log(total))[..., 0], sink_N)
    return _by_query_head(out.astype(q.dtype), q_BTNH.shape)


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
