"""The definitions of what has a faster form: short, and in no way clever."""

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import einsum
from ftjax.ops import products, scores, softcap
from ftjax.ops.visible import Visible


def contract(equation: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """Compute `einsum(equation, x, w)`."""
    return products.einsum(equation, x, w)


def contract_low_rank(equation: str, x, w, a, b, scale) -> jax.Array:
    """Compute x (w + scale * a b); letters of a and b are those of `core.einsum.lora`."""
    delta = products.einsum(einsum.lora(equation).weight, a, b)
    return products.einsum(equation, x, w + (scale * delta).astype(w.dtype))


def transposed_product(x: jax.Array, g: jax.Array) -> jax.Array:
    """Compute x^T g, [M,K] [M,N] -> [K,N]: the gradient of a matmul by its weight."""
    return products.matmul(x.T, g)


def grouped_matmul(x, w_EIO, counts_E: jax.Array, expert_J: jax.Array) -> jax.Array:
    """Multiply rows by the weight of their expert: [rows,I], [E,I,O] -> [rows,O].

    Args:
      x: rows sorted by expert; those behind the last expert's are zeros, and so are their answers,
        which nobody may read under a gradient.
      counts_E: how many rows each expert has, in whole blocks.
      expert_J: the expert of each block; blocks are of one size.
    """
    del expert_J  # the counts say the same
    # Rows behind the last group give zeros; padding costs time and nothing else.
    return jax.lax.ragged_dot(x, w_EIO, counts_E, precision=products.precision(x, w_EIO))


def argmax(x_BV: jax.Array) -> jax.Array:
    """Return where each row is largest, the first place of several: [B] int32.

    What a row with NaN gives depends on the form.
    """
    return jax.lax.argmax(x_BV, 1, jnp.int32)


def threshold(x_BV: jax.Array, weights_BV: jax.Array, mass) -> jax.Array:
    """Find the largest entry of each row that weighs `mass` with those above it: [B,1] float32.

    Where a whole row weighs less, what is found has no entry below it.

    Args:
      x_BV: float32. weights_BV: at least 0.
      mass: one number, or one for each row [B,1].
    """
    order_BV = jnp.argsort(-x_BV, axis=-1)
    falling_BV, weights_BV = (jnp.take_along_axis(a, order_BV, -1) for a in (x_BV, weights_BV))
    lighter_B1 = (jnp.cumsum(weights_BV, axis=-1) < mass).sum(-1, keepdims=True)
    last = x_BV.shape[-1] - 1
    return jnp.take_along_axis(falling_BV, jnp.minimum(lighter_B1, last), -1)


def attend(q_BTNH, k_BSKH, v_BSKH, sink_N, visible: Visible, scale: float, cap: float | None):
    """Compute softmax(scale * q k^T, capped, masked) v -> [B,T,N,H], the softmax in float32.

    Args:
      k_BSKH, v_BSKH: keys that are more than the queries stand before them; values may have other
        features.
      sink_N: scores of one more key of every head, whose value is zero; or None.
      visible: which keys a query sees, none of a later place of its row.
    """
    q = scores.by_key_head(q_BTNH, k_BSKH.shape[2])
    z = softcap.apply(products.summed("bkmh,bskh->bkms", q * scale, k_BSKH), cap)
    z = z + scores.bias(visible.mask(), q.shape[2] // q_BTNH.shape[1])
    logsum = jax.nn.logsumexp(z, axis=-1)
    if sink_N is not None:
        logsum = jnp.logaddexp(logsum, scores.of_rows(sink_N, logsum.shape))
    weights = jnp.exp(z - logsum[..., None]).astype(v_BSKH.dtype)
    out = products.summed("bkms,bskh->bkmh", weights, v_BSKH).astype(q.dtype)
    return scores.by_query_head(out, q_BTNH.shape)


def look_up(codes: jax.Array, values: np.ndarray) -> jax.Array:
    """Take the values that unsigned codes number, float32; there are 2^n of them, n > 0."""
    return jnp.asarray(values, jnp.float32)[codes]


def in_turn(own, before):
    """Return both trees as they are."""
    return own, before
