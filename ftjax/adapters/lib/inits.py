"""Where LoRA's factors start, each a function `(key, w, rank, scale) -> a, b`.

Weights are matrices [..., in, out] here, a [..., in, R] and b [..., R, out].

    kaiming      a uniform in +-1/sqrt(in), b = 0                            arXiv:2106.09685
    gaussian     a normal with deviation 1/R, b = 0
    orthogonal   a and b random through orthogonal halves, so that a b = 0
    pissa        the largest R singular triplets of w, a b s = their sum     arXiv:2404.02948
    milora       the smallest R                                              arXiv:2406.09044
    olora        the first R columns of the QR decomposition                 arXiv:2406.01775

The last three start with a b != 0, which the adapter then subtracts again: see `lora.OffsetLoRA`.

Other starts are made of more than a weight, by whoever has that (NEEDS says what):

    loftq        a b s = the largest R triplets of what quantising w loses   arXiv:2310.08659
    eva          a = the first R principal directions of the inputs, b = 0   arXiv:2410.07170
    lora_ga      a and b of the singular vectors of the weight's gradient    arXiv:2407.05000
    lora_null    what the weight does to the R directions in which the inputs
                 of old data have the least energy                           arXiv:2503.02659
    corda        the R triplets of the weight that matter least to those
                 inputs, weighted by their second moments ("kpm")            arXiv:2406.05223

LoftQ alone does not start as the base: it repairs a quantised one (`ops.corrected`). The a b of
the last three is subtracted again.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ftjax.ops import decompositions, lowrank, products

DISPLACED = ("pissa", "milora", "olora")
NEEDS = dict(
    loftq="quantizer", eva="inputs", lora_ga="gradient", lora_null="inputs", corda="inputs"
)  # fmt: skip
OF_THE_WEIGHT = ("lora_null", "corda")  # a b s is a part of the weight, found in inputs
SUBTRACTED = (*DISPLACED, "lora_ga", *OF_THE_WEIGHT)  # no part of the adapted weight at the start
NOT_THE_BASE = ("loftq",)  # where the first forward pass is not that of the weights
DAMPING = 0.01  # of CorDA's moments, in parts of their mean: few rows leave directions unseen
GAMMA = 16.0  # of LoRA-GA's scale; that of its authors' code


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
    rows = decompositions.qr(jax.random.normal(basis_key, (rank, rank), jnp.float32))[0]
    low = jax.random.normal(a_key, _in(w, rank // 2), jnp.float32)
    high = jax.random.normal(b_key, (*w.shape[:-2], w.shape[-1], rank // 2))
    turn = functools.partial(jnp.matmul, precision=products.HIGHEST)
    low, high = turn(low, rows[0::2]), turn(high, rows[1::2])
    return low / 10, high.swapaxes(-1, -2) / 10


def pissa(key, w, rank, scale):
    """Take the largest singular triplets."""
    return _triplets(w, slice(None, rank), scale)


def milora(key, w, rank, scale):
    """Take the smallest singular triplets."""
    return _triplets(w, slice(-rank, None), scale)


def olora(key, w, rank, scale):
    """Take the first columns of q and rows of r, of w^T = q r."""
    q, r = decompositions.qr(w.astype(jnp.float32).swapaxes(-1, -2))
    return r[..., :rank, :].swapaxes(-1, -2), q[..., :, :rank].swapaxes(-1, -2)


def _triplets(w, kept: slice, scale):
    return tuple(x / jnp.sqrt(scale) for x in lowrank.triplets(w, kept))


def _in(w, rank) -> tuple[int, ...]:
    return (*w.shape[:-1], rank)


def _zeros(w, rank) -> jax.Array:
    return jnp.zeros((*w.shape[:-2], rank, w.shape[-1]), jnp.float32)


class Directions(NamedTuple):
    """Principal directions of a layer's inputs, a [in, R], and the part of their energy, [R]."""

    a: jax.Array
    share: jax.Array


def eva(moments: jax.Array, rank: int) -> Directions:
    """Take the directions of the inputs' largest second moments, sum of x x^T [in, in]."""
    energy, directions = decompositions.eigh(moments.astype(jnp.float32))  # ascending
    largest = slice(None, -rank - 1, -1)
    return Directions(directions[:, largest], energy[largest] / jnp.maximum(energy.sum(), 1e-30))


def redistribute(shares, budget: int):
    """Return which directions of all layers are kept, the `budget` that explain most: as `shares`.

    shares: arrays [L, R] or [R] by site; a draw goes to the earlier one.
    """
    flat = jnp.concatenate([x.ravel() for x in shares.values()])
    places = jnp.argsort(jnp.argsort(-flat, stable=True), stable=True)
    ends = jnp.cumsum(jnp.array([x.size for x in shares.values()])).tolist()
    spans = zip(shares.items(), [0, *ends], ends, strict=False)
    return {path: (places[i:j] < budget).reshape(x.shape) for (path, x), i, j in spans}


def lora_ga(gradient: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """Take left singular vectors 1..R of a gradient [in, out] into a, right ones R+1..2R into b.

    Then the first step of descent on a and b moves a b along the gradient cut to rank 2 R. Both
    have the length out^(1/4) / sqrt(GAMMA), as in the code of the authors ("ArB2r",
    "stable"). PEFT's "stable" is another: a of length 1, b times its singular values.
    """
    u, _, v = decompositions.svd(gradient.astype(jnp.float32))
    length = gradient.shape[-1] ** 0.25 / GAMMA**0.5
    return length * u[..., :rank], length * v[..., rank : 2 * rank, :]


def lora_null(moments: jax.Array, w: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """Take the part of a weight [in, out] that the inputs of old data use least.

    moments: sum of x x^T over those inputs, [in, in]. a b = u u^T w, of the `rank` directions u of
    the smallest moments: what learns there changes the least of what the old inputs give.
    """
    unused = decompositions.eigh(moments.astype(jnp.float32))[1][:, :rank]  # ascending
    inside = functools.partial(jnp.matmul, precision=products.HIGHEST)
    return lowrank.triplets(inside(unused, inside(unused.T, w)), slice(None, rank))


def corda(moments: jax.Array, w: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """Take the triplets of c w that are smallest, and take c off again; c: moments, damped.

    As PEFT's CorDA does to keep knowledge ("kpm"), but that c has the mean 1 on its diagonal where
    PEFT divides inputs by their largest: the product a b is the same for every such number.
    """
    energy, turn = decompositions.eigh(moments.astype(jnp.float32))
    # By eigenvalues, so that the inverse is that of the very matrix that the weight is scaled by.
    energy = jnp.maximum(energy / jnp.maximum(energy.mean(), 1e-30), 0) + DAMPING
    inside = functools.partial(jnp.matmul, precision=products.HIGHEST)
    scaled = inside(turn * energy, inside(turn.T, w))
    a, b = lowrank.triplets(scaled, slice(-rank, None))
    return inside(turn / energy, inside(turn.T, a)), b


INITS = {f.__name__: f for f in (kaiming, gaussian, orthogonal, pissa, milora, olora)}
