"""Where LoRA's factors start, each a function `(key, w, rank, scale) -> a, b`.

Weights are matrices [..., in, out] here, a [..., in, R] and b [..., R, out].

    kaiming      a uniform in +-1/sqrt(in), b = 0                            arXiv:2106.09685
    gaussian     a normal with deviation 1/R, b = 0
    orthogonal   a and b random through orthogonal halves, so that a b = 0
    pissa        the largest R singular triplets of w, a b s = their sum     arXiv:2404.02948
    milora       the smallest R                                              arXiv:2406.09044
    olora        the first R columns of the QR decomposition                 arXiv:2406.01775

The last three start with a b != 0, which the adapter then subtracts again: see `lora.OffsetLoRA`.
"""

import jax
import jax.numpy as jnp

DISPLACED = ("pissa", "milora", "olora")


def kaiming(key, w, rank, scale):
    """Draw a uniform with the variance of a linear layer."""
    bound = w.shape[-2] ** -0.5
    a = jax.random.uniform(key, _in(w, rank), jnp.float32, minval=-bound, maxval=bound)
    return a, _zeros(w, rank)


def gaussian(key, w, rank, scale):
    """Draw a normal with deviation 1 / rank."""
    return jax.random.normal(key, _in(w, rank), jnp.float32) / rank, _zeros(w, rank)


def orthogonal(key, w, rank, scale):
    """Split the rows of an orthogonal matrix of the rank's size between a and b; an even rank."""
    basis_key, a_key, b_key = jax.random.split(key, 3)
    rows = jnp.linalg.qr(jax.random.normal(basis_key, (rank, rank), jnp.float32))[0]
    low = jax.random.normal(a_key, _in(w, rank // 2), jnp.float32) @ rows[0::2]
    high = jax.random.normal(b_key, (*w.shape[:-2], w.shape[-1], rank // 2)) @ rows[1::2]
    return low / 10, high.swapaxes(-1, -2) / 10


def pissa(key, w, rank, scale):
    """Take the largest singular triplets."""
    return _triplets(w, slice(None, rank), scale)


def milora(key, w, rank, scale):
    """Take the smallest singular triplets."""
    return _triplets(w, slice(-rank, None), scale)


def olora(key, w, rank, scale):
    """Take the first columns of q and rows of r, of w^T = q r."""
    q, r = jnp.linalg.qr(w.astype(jnp.float32).swapaxes(-1, -2))
    return r[..., :rank, :].swapaxes(-1, -2), q[..., :, :rank].swapaxes(-1, -2)


def _triplets(w, kept: slice, scale):
    u, s, v = jnp.linalg.svd(w.astype(jnp.float32), full_matrices=False)
    root = jnp.sqrt(s[..., kept] / scale)
    return u[..., :, kept] * root[..., None, :], root[..., :, None] * v[..., kept, :]


def _in(w, rank) -> tuple[int, ...]:
    return (*w.shape[:-1], rank)


def _zeros(w, rank) -> jax.Array:
    return jnp.zeros((*w.shape[:-2], rank, w.shape[-1]), jnp.float32)


STARTS = {f.__name__: f for f in (kaiming, gaussian, orthogonal, pissa, milora, olora)}
