"""Chunked log-probabilities: the loss of a language model without a `[B,T,V]` array.

`logps` walks over chunks of T, makes the logits of one chunk, keeps two float32 numbers per token
(log p of the target, and the log normaliser) and lets the logits go. Its gradient with respect to
the hidden states needs only the expected output embedding e_t = sum_v p_tv w_v, which costs one
more matmul while the chunk is there, instead of making all logits again:

    d log p_t / d x_t = w_target - e_t           d log Z_t / d x_t = e_t

The gradient with respect to the head's weight does make the logits again, chunk by chunk; where the
head is frozen nobody asks for it, and the compiler drops that pass.
"""

import functools

import jax
import jax.numpy as jnp


def logps(x_BTD, w_VD, targets_BT, *, chunk: int) -> tuple[jax.Array, jax.Array]:
    """Compute log p(target) and log Z of every token, both [B,T] float32.

    The logits are `x w^T` in the dtype of `x`, reduced in float32. `chunk` is the number of
    positions done at a time; T is padded to a multiple of it.
    """
    T = targets_BT.shape[1]
    chunk = min(chunk, T)
    pad = -T % chunk
    x = jnp.pad(x_BTD, ((0, 0), (0, pad), (0, 0)))
    targets = jnp.pad(targets_BT, ((0, 0), (0, pad)))
    logp, logz = _logps(chunk, x, w_VD.astype(x.dtype), targets)
    return logp[:, :T], logz[:, :T]


def entropies(x_BTD, w_VD, *, chunk: int) -> jax.Array:
    """Compute the entropy of the distribution after every position, [B,T] float32.

    The backward pass makes the logits again.
    """
    T = x_BTD.shape[1]
    chunk = min(chunk, T)
    (parts,) = _chunks(chunk, jnp.pad(x_BTD, ((0, 0), (0, -T % chunk), (0, 0))))

    @jax.checkpoint
    def one(x_BCD):
        logps = jax.nn.log_softmax(_logits(x_BCD, w_VD.astype(x_BCD.dtype)))
        return -(jnp.exp(logps) * logps).sum(-1)

    return _whole(jax.lax.map(one, parts))[:, :T]


def log_squares(x_BTD, w_VD, *, chunk: int) -> jax.Array:
    """Compute log sum_v p_v^2 of every token, [B,T] float32, without gradient.

    Its exponential is the chance that two draws agree, and how likely a usual token is.
    """
    x_BTD, w_VD = jax.lax.stop_gradient((x_BTD, w_VD.astype(x_BTD.dtype)))
    T = x_BTD.shape[1]
    chunk = min(chunk, T)
    padded = jnp.pad(x_BTD, ((0, 0), (0, -T % chunk), (0, 0)))

    def one(inputs):
        logits = _logits(inputs[0], w_VD)
        return jax.nn.logsumexp(2 * logits, -1) - 2 * jax.nn.logsumexp(logits, -1)

    return _whole(jax.lax.map(one, _chunks(chunk, padded)))[:, :T]


def _chunks(chunk: int, *arrays):
    """[B,T,...] -> [T/chunk, B, chunk, ...]: the batch axis, which is sharded, stays whole."""
    cut = lambda a: a.reshape(a.shape[0], -1, chunk, *a.shape[2:]).swapaxes(0, 1)
    return tuple(map(cut, arrays))


def _whole(chunked):
    """Undo `_chunks`."""
    swapped = chunked.swapaxes(0, 1)
    return swapped.reshape(swapped.shape[0], -1, *swapped.shape[3:])


def _logits(x_BCD, w_VD):
    B, C, D = x_BCD.shape
    return (x_BCD.reshape(-1, D) @ w_VD.T).reshape(B, C, -1).astype(jnp.float32)


def _is_target(targets, size: int):
    return targets[..., None] == jnp.arange(size, dtype=targets.dtype)


def _statistics(logits, targets):
    """Compute log p of the targets, log Z, and the probabilities."""
    logz = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum and not a gather: it stays local when V is sharded.
    target = jnp.where(_is_target(targets, logits.shape[-1]), logits, 0).sum(-1)
    return target - logz, logz, jnp.exp(logits - logz[..., None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logps(chunk, x, w, targets):
    return _forward(chunk, x, w, targets)[0]


def _forward(chunk, x, w, targets):
    def one(inputs):
        x_BCD, targets_BC = inputs
        logp, logz, p = _statistics(_logits(x_BCD, w), targets_BC)
        expected = (p.astype(w.dtype).reshape(-1, w.shape[0]) @ w).reshape(x_BCD.shape)
        return logp, logz, expected

    logp, logz, expected = map(_whole, jax.lax.map(one, _chunks(chunk, x, targets)))
    return (logp, logz), (x, w, targets, expected)


def _backward(chunk, residuals, cotangents):
    x, w, targets, expected = residuals
    g_logp, g_logz = (g[..., None] for g in cotangents)
    dx = (g_logp * w[targets] + (g_logz - g_logp) * expected).astype(x.dtype)

    def one(total, inputs):
        x_BCD, targets_BC, g_logp, g_logz = inputs
        p = _statistics(_logits(x_BCD, w), targets_BC)[2]
        g = jnp.where(_is_target(targets_BC, w.shape[0]), g_logp, 0) + (g_logz - g_logp) * p
        g_2d, x_2d = g.reshape(-1, w.shape[0]).astype(x.dtype), x_BCD.reshape(-1, x.shape[-1])
        return total + (g_2d.T @ x_2d).astype(jnp.float32), None

    chunked = _chunks(chunk, x, targets, g_logp, g_logz)
    dw, _ = jax.lax.scan(one, jnp.zeros(w.shape, jnp.float32), chunked)
    return dx, dw.astype(w.dtype), None


_logps.defvjp(_forward, _backward)
