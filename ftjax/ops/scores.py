"""How scores of attention lie, what a mask adds to them, and what a sink takes of their weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ftjax.ops import remat

MASKED = -1e30  # finite, so that a fully masked row gives an average and not NaN


def over_key_heads(
    attend: Callable, q_BTNH, k_BSKH, v_BSKH, sink_N=None, *, keep: bool = True
) -> jax.Array:
    """Run `attend(q_BKMH, k_BKSH, v_BKSH) -> output [B,K,M,H], log-sums [B,K,M]`: [B,T,N,H].

    keep: mark keys and values for `remat.keep`; not those that came from other devices.
    """
    q = remat.keep(by_key_head(q_BTNH, k_BSKH.shape[2]))
    k, v = (x.swapaxes(1, 2) for x in (k_BSKH, v_BSKH))
    if keep:
        k, v = remat.keep(k), remat.keep(v)
    out, logsum = attend(q, k, v)
    if sink_N is not None:
        out = share(out, logsum, sink_N)
    return by_query_head(out, q_BTNH.shape)


def by_key_head(q_BTNH, heads: int) -> jax.Array:
    """-> [B,K,M,H]: the G queries of a position, and the positions, of each key-value head."""
    B, T, N, H = q_BTNH.shape
    return q_BTNH.reshape(B, T, heads, N // heads, H).swapaxes(1, 2).reshape(B, heads, -1, H)


def by_query_head(out_BKMH, shape) -> jax.Array:
    """Undo `by_key_head`; the features are those of the values."""
    (B, T, N, _), (_, K, _, H) = shape, out_BKMH.shape
    return out_BKMH.reshape(B, K, T, N // K, H).swapaxes(1, 2).reshape(B, T, N, H)


def bias(mask_BTS: jax.Array, group: int) -> jax.Array:
    """Make 0 where a query sees a key and MASKED elsewhere: [B,1,M,S] float32.

    group: how many rows of scores, one after another, are of one position; M = T * group.
    """
    return jnp.repeat(jnp.where(mask_BTS, 0.0, MASKED), group, axis=1)[:, None]


def share(out_BKMH, logsum_BKM, sink_N) -> jax.Array:
    """Leave to the sink its part of the weights, e^sink of e^sink + e^logsum."""
    rest_BKM1 = jax.nn.sigmoid(logsum_BKM - of_rows(sink_N, logsum_BKM.shape))[..., None]
    return (out_BKMH * rest_BKM1).astype(out_BKMH.dtype)


def of_rows(sink_N, shape) -> jax.Array:
    """Repeat what every query head has for the rows of `by_key_head`: [K,M] float32."""
    _, K, M = shape
    sink_K1G = sink_N.astype(jnp.float32).reshape(K, 1, -1)
    return jnp.tile(sink_K1G, (1, M // sink_K1G.shape[-1], 1)).reshape(K, M)
