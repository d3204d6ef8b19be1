"""Chunked log-probabilities: the loss of a language model without a `[B,T,V]` array.

`logps` walks over chunks of T, makes the logits of one chunk, keeps two float32 numbers per token
(log p of the target, and the log normaliser) and lets the logits go. Its gradient with respect to
the hidden states needs only the expected output embedding e_t = sum_v p_tv w_v, which costs one
more matmul while the chunk is there, instead of making all logits again:

    d log p_t / d x_t = w_target - e_t           d log Z_t / d x_t = e_t

The gradient with respect to the head's weight does make the logits again, chunk by chunk; where the
head is frozen nobody asks for it, and the compiler drops that pass.

Where weights are sharded over the devices, each multiplies its part of the vocabulary with the rows
of all: the head moves once a step, and not once a chunk, and its gradient not at all; a chunk of
hidden states moves, which is smaller. Where devices share rows, a chunk has as many positions of
each part of a row, so that no device has much of what another holds.

A model may cap its logits, z = c tanh(x w^T / c) (arXiv:2408.00118). Then every row w_v above
counts with the slope of its cap, 1 - (z_v / c)^2.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ftjax.core import mesh as meshes
from ftjax.ops import products, softcap


def logps(
    x_BTD, w_VD, targets_BT, *, chunk: int, cap: float | None = None
) -> tuple[jax.Array, jax.Array]:
    """Compute log p(target) and log Z of every token, both [B,T] float32.

    The logits are `x w^T`, multiplied in the dtype of `x`; they are float32. `chunk` is the number
    of positions done at a time.
    """
    return _logps(chunk, cap, x_BTD, _head(x_BTD, w_VD), targets_BT)


def mean_logits(x_BTD, w_VD, *, chunk: int, cap: float | None = None) -> jax.Array:
    """Compute the mean of the logits over the vocabulary, [B,T] float32."""
    if cap is None:
        # Without a cap the mean of V products is one product with the mean row: V times less work.
        mean_D = w_VD.astype(jnp.float32).mean(0)
        return products.einsum("BTD,D->BT", x_BTD.astype(jnp.float32), mean_D)
    return along(lambda logits: logits.mean(-1), (x_BTD, w_VD, cap), chunk=chunk)


def log_squares(x_BTD, w_VD, *, chunk: int, cap: float | None = None) -> jax.Array:
    """Compute log sum_v p_v^2 of every token, [B,T] float32, without gradient.

    Its exponential is the chance that two draws agree, and how likely a usual token is.
    """
    # WPO weighs by this number and does not learn through it.
    x_BTD, w_VD = jax.lax.stop_gradient((x_BTD, w_VD))
    both = lambda z: jax.nn.logsumexp(2 * z, -1) - 2 * jax.nn.logsumexp(z, -1)
    return along(both, (x_BTD, w_VD, cap), chunk=chunk)


def along(function: Callable, *models: tuple, chunk: int, targets_BT=None) -> jax.Array:
    """Apply `function(logits, ...) -> [B,C,...]` to the logits of models, chunk by chunk of T.

    Each model is (hidden states [B,T,D], output embedding [V,D], cap of the logits or None). With
    targets the function has them as its last argument.
    Returns [B,T,...] float32; the backward pass makes the logits again.
    """
    states = [x for x, _, _ in models]
    beside = [] if targets_BT is None else [targets_BT]
    heads = [(_head(x, w), cap) for x, w, cap in models]

    @jax.checkpoint
    def one(chunks):
        logits = (_logits(x, *head) for x, head in zip(chunks, heads, strict=False))
        return function(*logits, *chunks[len(models) :])  # targets come last

    return _whole(jax.lax.map(one, _chunks(chunk, *states, *beside)), states[0].shape[1])


def _head(x, w_VD):
    """Lay out the head as a loop multiplies by it, in the type of the hidden states."""
    # Cast once here, not once a chunk.
    return _lay_out(w_VD.astype(x.dtype), "vd", len(w_VD))


def _chunks(chunk: int, *arrays):
    """[B,T,...] -> [chunks, B, positions, ...]: the batch axis, which is sharded, stays whole.

    Chunks of one size make one loop body: zeros fill the last one of each part of a row. There are
    no more of them than `chunk` asks for, and they are as even as that allows: 80 positions in two
    of 64 would be 128 positions of work.
    """
    T = arrays[0].shape[1]
    parts = meshes.row_parts(T)
    row = T // parts  # what a device has of a row
    count = -(-row // min(-(-chunk // parts), row))
    own = -(-row // count)

    def cut(a):
        if parts > 1:
            a = meshes.constrain(a, "BT" + "D" * (a.ndim - 2))
        a = a.reshape(a.shape[0], parts, -1, *a.shape[2:])
        a = jnp.pad(a, [(0, -n % own if axis == 2 else 0) for axis, n in enumerate(a.shape)])
        a = a.reshape(*a.shape[:2], -1, own, *a.shape[3:])
        # `lax.map` runs over the first axis; B must not be it, or each device would wait for the
        # others.
        a = jnp.moveaxis(a, 2, 0)
        return a.reshape(*a.shape[:2], parts * own, *a.shape[4:])

    return tuple(map(cut, arrays))


def _whole(chunked, T: int):
    """Undo `_chunks` of rows of T positions."""
    parts = meshes.row_parts(T)
    a = chunked.reshape(*chunked.shape[:2], parts, -1, *chunked.shape[3:])
    a = jnp.moveaxis(a, 0, 2)
    a = a.reshape(*a.shape[:2], -1, *a.shape[4:])[:, :, : T // parts]
    return a.reshape(a.shape[0], T, *a.shape[3:])


def _rows(x_BCD, vocabulary: int) -> tuple[str, jax.Array]:
    """Make rows of one matrix of the positions of a chunk; returns the letters of positions too.

    Where they stay on the devices that share rows and batch, so does their shape: flat, all of it
    would come to every device.
    """
    if meshes.row_parts(x_BCD.shape[1]) > 1 and not _is_cut(vocabulary):
        return "bc", x_BCD
    return "m", x_BCD.reshape(-1, x_BCD.shape[-1])


def _products(x_BCD, w_VD):
    """Multiply: [B,C,V] float32, since rounded logits would be other probabilities."""
    size = len(w_VD)
    at, rows = _rows(_lay_out(x_BCD, "bcd", size), size)
    y = products.einsum(f"{at}d,vd->{at}v", rows, w_VD, dtype=jnp.float32)
    return _lay_out(y.reshape(*x_BCD.shape[:2], size), "bcv", size)


def _lay_out(x, letters: str, vocabulary: int):
    """Pin an array of the loop where weights are sharded, by lower-case letters of `core.mesh`.

    A device has the rows of all and a part of the vocabulary. With rows of its own it would gather
    the head, and in every turn of the loop, since the compiler moves that next to its use.
    """
    mesh = meshes.current()
    if mesh is None or mesh.shape["fsdp"] * mesh.shape[meshes.SEQUENCE] == 1:
        return x
    if not _is_cut(vocabulary):
        letters = letters.translate(str.maketrans("bcv", "BTV"))
    return meshes.constrain(x, letters)


def _is_cut(vocabulary: int) -> bool:
    """Return whether the mesh in force, if any, cuts the vocabulary in the loop."""
    mesh = meshes.current()
    return (
        mesh is not None and vocabulary % math.prod(mesh.shape[a] for a in meshes.RULES["v"]) == 0
    )


def _logits(x_BCD, w_VD, cap):
    return softcap.apply(_products(x_BCD, w_VD), cap)


def is_target(targets: jax.Array, size: int) -> jax.Array:
    """Return where in a vocabulary of `size` the targets [...] are: bool [..., V]."""
    # A comparison and not a scatter: it stays local when V is sharded.
    return targets[..., None] == jnp.arange(size, dtype=targets.dtype)


def _statistics(logits, targets):
    """Compute log p of the targets, log Z, and the probabilities."""
    logz = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum and not a gather: it stays local when V is sharded.
    target = jnp.where(is_target(targets, logits.shape[-1]), logits, 0).sum(-1)
    return target - logz, logz, jnp.exp(logits - logz[..., None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _logps(chunk, cap, x, w, targets):
    return _forward(chunk, cap, x, w, targets)[0]


def _forward(chunk, cap, x, w, targets):
    def one(inputs):
        x_BCD, targets_BC = inputs
        logits = _logits(x_BCD, w, cap)
        logp, logz, p = _statistics(logits, targets_BC)
        # dz/dy of the cap belongs to every vocabulary entry, so it multiplies p before the sum over
        # V.
        p = p * softcap.slope(logits, cap)
        # e_t is made while p is at hand: the backward pass then needs no logits for dx.
        at, p = _rows(p.astype(w.dtype), len(w))
        expected = products.einsum(f"{at}v,vd->{at}d", p, w)
        return logp, logz, _lay_out(expected.reshape(x_BCD.shape), "BTd", len(w))

    found = jax.lax.map(one, _chunks(chunk, x, targets))
    logp, logz, expected = (_whole(each, x.shape[1]) for each in found)
    return (logp, logz), (x, w, targets, expected, logp + logz)


def _backward(chunk, cap, residuals, cotangents):
    x, w, targets, expected, logit = residuals
    g_logp, g_logz = (g[..., None] for g in cotangents)
    # logit = log p + log Z: the capped logit of the target, kept as one number and not as a row.
    own = softcap.slope(logit[..., None], cap) * g_logp
    # The target's row is gathered: g_logp (w_target - e) + g_logz e, collected by e.
    dx = (own * w[targets] + (g_logz - g_logp) * expected).astype(x.dtype)

    def one(total, inputs):
        x_BCD, targets_BC, g_logp, g_logz = inputs
        logits = _logits(x_BCD, w, cap)
        p = _statistics(logits, targets_BC)[2]
        g = jnp.where(is_target(targets_BC, w.shape[0]), g_logp, 0) + (g_logz - g_logp) * p
        g = g * softcap.slope(logits, cap)
        (at, g), (_, rows) = _rows(g.astype(x.dtype), len(w)), _rows(x_BCD, len(w))
        return total + _lay_out(products.summed(f"{at}v,{at}d->vd", g, rows), "vd", len(w)), None

    chunked = _chunks(chunk, x, targets, g_logp, g_logz)
    # float32 whatever the head is: T / chunk small terms are added to one large sum.
    dw, _ = jax.lax.scan(one, jnp.zeros(w.shape, jnp.float32), chunked)
    # Targets are integers: they have no cotangent.
    return dx, dw.astype(w.dtype), None


_logps.defvjp(_forward, _backward)


# -- one number of all tokens ----------------------------------------------------------------------


def total(
    loss: Callable, x_BTD, w_VD, targets_BT, weights_BT, *, chunk: int, cap: float | None = None
) -> tuple[jax.Array, jax.Array]:
    """Sum `weights * loss(log p, log Z, mean logit)` over all tokens, in float32.

    `loss` works element by element. As the sum is one number, its gradient is known up to a factor
    while a chunk's logits are there, so they are made once (arXiv:2410.10989) and not twice, as
    for `logps`. Nothing is differentiated through the weights.

    Returns:
      The sum, and log p(target) [B,T] without gradient.
    """
    return _total((loss, chunk, cap), x_BTD, _head(x_BTD, w_VD), targets_BT, weights_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(static, x, w, targets, weights):
    loss, chunk, cap = static
    one = lambda inputs: _chunk_total(loss, cap, _products(inputs[0], w), *inputs[1:])
    values, logp = jax.lax.map(one, _chunks(chunk, x, targets, weights))
    return values.sum(), _whole(logp, x.shape[1])


def _chunk_total(loss, cap, products, targets, weights):
    logits = softcap.apply(products, cap)
    logp, logz, _ = _statistics(logits, targets)
    return (weights * loss(logp, logz, logits.mean(-1))).sum(), logp


def _total_forward(static, x, w, targets, weights):
    loss, chunk, cap = static
    # The gradient with respect to the chunk's logits alone; both products with it follow by hand,
    # so that neither is kept.
    gradient = jax.value_and_grad(functools.partial(_chunk_total, loss, cap), has_aux=True)

    def one(dw, inputs):
        x_BCD, *rest = inputs
        (value, logp), g = gradient(_products(x_BCD, w), *rest)
        (at, rows), (_, g) = _rows(x_BCD, len(w)), _rows(g.astype(x.dtype), len(w))
        # Tokens are many and features few: this way round a CPU multiplies faster.
        dw = dw + _lay_out(products.summed(f"{at}d,{at}v->dv", rows, g), "dv", len(w))
        dx_BCD = products.einsum(f"{at}v,vd->{at}d", g, w).reshape(x_BCD.shape)
        return dw, (value, logp, _lay_out(dx_BCD, "BTd", len(w)))

    chunked = _chunks(chunk, x, targets, weights)
    dw, (values, logp, dx) = jax.lax.scan(one, jnp.zeros(w.shape[::-1], jnp.float32), chunked)
    # `like` remembers the head's type without keeping the head.
    logp, dx = (_whole(each, x.shape[1]) for each in (logp, dx))
    return (values.sum(), logp), (dw, dx, jnp.zeros((), w.dtype))


def _total_backward(static, residuals, cotangents):
    del static
    (dw, dx, like), (g, _) = residuals, cotangents
    # The sum is one number, so the cotangent g is a scalar factor of what is known already.
    return (g * dx).astype(dx.dtype), (g * dw.T).astype(like.dtype), None, None


_total.defvjp(_total_forward, _total_backward)
