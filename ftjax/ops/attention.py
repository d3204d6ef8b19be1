"""Scaled dot-product attention with grouped key-value heads (arXiv:2305.13245) and masks.

The product runs as plain batched matmuls over `[B,K,T*G,H] x [B,K,S,H]`: the G = N/K query heads of
a key-value head are rows of one matrix, so keys and values are never repeated. The backward pass
makes the weights again from the log-sums of their rows (arXiv:2205.14135), so that no [B,N,T,S]
array outlives its block.
"""

import functools

import jax
import jax.numpy as jnp

LEAST_BLOCK, BLOCKS = 64, 8
MASKED = -1e30  # finite, so that a fully masked row gives an average and not NaN


def causal_mask(query, key, *, window: int | None = None) -> jax.Array:
    """Say which keys a query may see: `mask_BTS`, from positions, segments and a sliding window.

    `query` and `key` are (positions [B,T], segments [B,T]) pairs. A query sees keys of its own
    segment that are not later, and with a window only the last `window` positions.
    """
    (q_pos, q_seg), (k_pos, k_seg) = query, key
    mask = (q_pos[:, :, None] >= k_pos[:, None, :]) & (q_seg[:, :, None] == k_seg[:, None, :])
    if window is not None:
        mask &= q_pos[:, :, None] - k_pos[:, None, :] < window
    return mask


def attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS, *, scale: float) -> jax.Array:
    """Compute softmax(scale * q k^T, masked) v -> [B,T,N,H]; the softmax is in float32."""
    q, k, v = _heads_first(q_BTNH, k_BSKH, v_BSKH)
    return _heads_last(_core(q, k, v, _bias(mask_BTS, q, k), scale), q_BTNH.shape)


def attend_causal(q_BTNH, k_BTKH, v_BTKH, mask_BTT, *, scale: float) -> jax.Array:
    """Compute `attend` where no query sees a later place of its row: packed or plain training rows.

    The queries go in blocks, each against the keys up to its own end, which saves nearly half of
    the products and of the memory. There are at most `BLOCKS` of them, so long rows compile as fast
    as short ones.
    """
    T = q_BTNH.shape[1]
    q, k, v = _heads_first(q_BTNH, k_BTKH, v_BTKH)
    block, group = max(LEAST_BLOCK, -(-T // BLOCKS)), q.shape[2] // T
    outputs = []
    for start in range(0, T, block):
        stop = min(start + block, T)
        rows = q[:, :, start * group : stop * group]
        keys, values = k[:, :, :stop], v[:, :, :stop]
        bias = _bias(mask_BTT[:, start:stop, :stop], rows, keys)
        outputs.append(_core(rows, keys, values, bias, scale))
    return _heads_last(jnp.concatenate(outputs, axis=2), q_BTNH.shape)


def _heads_first(q_BTNH, k_BSKH, v_BSKH):
    """-> q [B,K,T*G,H], k and v [B,K,S,H]."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q = q_BTNH.reshape(B, T, K, N // K, H).swapaxes(1, 2).reshape(B, K, -1, H)
    return q, k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)


def _heads_last(out_BKMH, shape):
    B, T, N, H = shape
    K = out_BKMH.shape[1]
    return out_BKMH.reshape(B, K, T, N // K, H).swapaxes(1, 2).reshape(shape)


def _bias(mask_BTS, q_BKMH, k_BKSH):
    """-> [B,1,T*G,S]: 0 where a key is seen."""
    group = q_BKMH.shape[2] // mask_BTS.shape[1]
    return jnp.repeat(jnp.where(mask_BTS, 0.0, MASKED), group, axis=1)[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _core(q_BKMH, k_BKSH, v_BKSH, bias_BKMS, scale):
    return _forward(q_BKMH, k_BKSH, v_BKSH, bias_BKMS, scale)[0]


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _scores(q, k, bias, scale):
    return _product("bkmh,bksh->bkms", q * scale, k) + bias


def _forward(q, k, v, bias, scale):
    """The weights are normalised after they are applied, and not kept: their log-sum is."""
    scores = _scores(q, k, bias, scale)
    largest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(-1, keepdims=True)
    out = (_product("bkms,bksh->bkmh", weights.astype(v.dtype), v) / total).astype(q.dtype)
    return out, (q, k, v, bias, out, largest + jnp.log(total))


def _backward(scale, residuals, g):
    """Make the weights again; d scores = weights * (g v^T - <g, out>) (arXiv:2205.14135)."""
    q, k, v, bias, out, logsum = residuals
    weights = jnp.exp(_scores(q, k, bias, scale) - logsum)
    dv = _product("bkms,bkmh->bksh", weights.astype(g.dtype), g)
    through = _product("bkmh,bkmh->bkm", g, out)[..., None]
    dscores = weights * (_product("bkmh,bksh->bkms", g, v) - through)
    dscores = dscores.astype(q.dtype)
    dq = scale * _product("bkms,bksh->bkmh", dscores, k)
    dk = scale * _product("bkms,bkmh->bksh", dscores, q)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_core.defvjp(_forward, _backward)
