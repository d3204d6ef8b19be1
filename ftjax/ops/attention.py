"""Scaled dot-product attention with grouped key-value heads (arXiv:2305.13245).

What a query sees is said by positions and segments (`visible`), not by masks. Whole rows go to the
form of their platform (`fast.attend`); over a cache the product runs here, as plain batched matmuls
`[B,K,T*G,H] x [B,K,H,S]`: the G = N/K query heads of a key-value head are rows of one matrix, so
keys and values are never repeated. With a cap c, a score z becomes c tanh(z / c) before the mask
(arXiv:2408.00118).
"""

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.ops import fast, products, scores, softcap
from ftjax.ops.visible import Visible


def attend_causal(
    q_BTNH, k_BSKH, v_BSKH, visible: Visible, *, scale: float, cap: float | None = None,
    sink_N=None,
) -> jax.Array:  # fmt: skip
    """Compute softmax(scale * q k^T, capped, masked) v -> [B,T,N,H]; the softmax is in float32.

    Packed or plain rows; keys that are more than the queries stand before them.

    `sink_N` are scores of one more key of every head, whose value is zero: weights sum to less than
    one (arXiv:2309.17453). Values may have other features than keys.
    """
    return fast.attend(q_BTNH, k_BSKH, v_BSKH, sink_N, visible, scale, cap)


def attend_cached(
    q_BTNH, parts, *, scale: float, cap: float | None = None, sink_N=None
) -> jax.Array:
    """Compute the same over keys in parts, (k_BKHS, v_BKSH, mask_BTS) each: a cache, new tokens.

    Scores of the parts are joined, keys and values never: a cache is read where it lies. Its keys
    have their features before the slots, so that the scores of one query are sums along rows.
    """
    keys, values, masks = zip(*parts, strict=True)
    q = scores.by_key_head(q_BTNH, keys[0].shape[1])
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
        out = scores.share(out, (largest + jnp.log(total))[..., 0], sink_N)
    return scores.by_query_head(out.astype(q.dtype), q_BTNH.shape)
