"""Quantised weights: frozen bases in 8 or 4 bits a weight, as leaves that `ops.linear` reads.

    int8   w = codes * scale, one scale per output channel: its largest |w| / 127
    nf4    w = table[codes] * scale, one scale per 64 weights; the table holds 16 quantiles of the
           normal distribution, and the scales are themselves kept in 8 bits (arXiv:2305.14314)

    q = make(name="nf4")("BTD,DNH->BTNH", w)      a pytree of arrays; dense(q, w.dtype) is near w

A quantised weight stands in the parameters where the array stood. It stacks on L and scans like
any array, and it never trains: codes have no gradient. NF4 takes 4 + 8/64 + 32/(64 * 256) = 4.127
bits a weight, int8 takes 8 and a float32 per output channel.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import einsum, tree
from ftjax.ops import fast

# Both as in the paper, so that sizes and errors compare.
BLOCK = 64  # weights that share a scale
GROUP = 256  # scales that share theirs
WITHIN = "Q"  # letter of the axes that no mesh cuts


class Quantized:
    """A weight in few bits; subclasses are registered dataclasses of arrays."""

    def dequantize(self, dtype) -> jax.Array:
        """Return the weight that the codes stand for; axes in front, such as L, stay in front."""
        raise NotImplementedError

    def axes(self, letters: str) -> "Quantized":
        """Return letters in place of arrays, given those of the weight (with L, if stacked)."""
        raise NotImplementedError

    def __getitem__(self, index) -> "Quantized":
        """Index the axes in front of the weight's own."""
        return jax.tree.map(lambda leaf: leaf[index], self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8(Quantized):
    """`codes` int8 in the shape of the weight; `scale` float32, 1 along contracted axes."""

    codes: jax.Array
    scale: jax.Array

    def dequantize(self, dtype) -> jax.Array:
        """Multiply codes and scales."""
        # Scales are float32: rounded before the product, they would add an error of their own.
        return (self.codes.astype(jnp.float32) * self.scale).astype(dtype)

    def axes(self, letters: str) -> "Int8":
        """Both have the weight's letters."""
        return Int8(letters, letters)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NF4(Quantized):
    """Blocks of 64 weights along the last axes, two codes a byte.

    A block never crosses the leading axes of the weight, so a mesh cuts between blocks: `codes` is
    uint8 [leading.., blocks, 32], `scale_codes` int8 [leading.., blocks]. Scales are
    `mean + scale_codes * step`, with one float32 `step` per 256 of them.
    """

    codes: jax.Array
    scale_codes: jax.Array
    step: jax.Array
    mean: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))  # of one layer's weight

    def dequantize(self, dtype) -> jax.Array:
        """Look the codes up and multiply by the scales."""
        # `shape` is static and of one layer; what codes have beyond it are stacked layers.
        if self.codes.ndim > len(_split(self.shape)[0]) + 2:  # stacked
            return jax.vmap(lambda layer: layer.dequantize(dtype))(self)
        scale = _scales(self.scale_codes, self.step, self.mean)
        # Low nibbles are the first half of a block, high ones the second: unpacking is two whole
        # vectors, where neighbours in a byte would interleave.
        pair = jnp.concatenate([self.codes & 15, self.codes >> 4], -1)
        return _unblock((fast.look_up(pair, table()) * scale[..., None]).astype(dtype), self.shape)

    def axes(self, letters: str) -> "NF4":
        """The blocks' axis takes the first letter of the axes that it runs along."""
        count = len(letters) - len(self.shape) + len(_split(self.shape)[0]) + 1
        own, front = letters[:count], letters[: len(letters) - len(self.shape)]
        return dataclasses.replace(
            self, codes=own + WITHIN, scale_codes=own, step=front + WITHIN, mean=front
        )


Quantizer = Callable[[str, jax.Array], Quantized]


def int8(equation: str, w: jax.Array) -> Int8:
    """Round one layer's weight to 8 bits; off by at most half its channel's scale."""
    e, w = einsum.parse(equation), w.astype(jnp.float32)
    inputs = tuple(e.w.index(c) for c in e.contracted)
    # 127 and not 128: codes are symmetric, so that zero stays zero and w and -w round alike.
    scale = _nonzero(jnp.abs(w).max(inputs, keepdims=True) / 127)
    return Int8(jnp.round(w / scale).astype(jnp.int8), scale)


def nf4(equation: str, w: jax.Array) -> NF4:
    """Round one layer's weight to 4 bits; codes are chosen for the scales as they will be read."""
    del equation  # blocks follow from the shape alone
    blocks = _block(w.astype(jnp.float32))
    absmax = jnp.abs(blocks).max(-1)
    # Scales are rounded first and codes chosen for the rounded ones, which are those that are read.
    scale_codes, step, mean = _round_scales(absmax)
    scale = _nonzero(_scales(scale_codes, step, mean))
    codes = _nearest(blocks / scale[..., None]).astype(jnp.uint8)
    first, second = jnp.split(codes, 2, axis=-1)
    return NF4(first | second << 4, scale_codes, step, mean, w.shape)


FORMATS = {"int8": int8, "nf4": nf4}


def make(*, name: str) -> Quantizer:
    """Return the quantiser of that name: `(equation, w of one layer) -> Quantized`.

    Raises:
      ValueError: there is none.
    """
    if name not in FORMATS:
        raise ValueError(
            f"model.quantize.name: got {name!r}; expected one of {', '.join(FORMATS)}, or '' for a "
            "base that is not quantised"
        )
    return FORMATS[name]


def is_quantized(node: Any) -> bool:
    """Return whether a leaf is a quantised weight: the `is_leaf` of maps over parameters."""
    return isinstance(node, Quantized)


def sites(weights: Any) -> list[str]:
    """List the paths of what is quantised in a tree."""
    found = jax.tree_util.tree_flatten_with_path(weights, is_leaf=is_quantized)[0]
    return [tree.path_name(keys) for keys, w in found if is_quantized(w)]


def dense(weights: Any, dtype) -> Any:
    """Put arrays of `dtype` in the place of what is quantised; other arrays stay as they are."""
    one = lambda w: w.dequantize(dtype) if is_quantized(w) else w
    return jax.tree.map(one, weights, is_leaf=is_quantized)


def cast(weights: Any, dtype) -> Any:
    """Cast the arrays of a tree and leave what is quantised as it is."""
    one = lambda w: w if is_quantized(w) else w.astype(dtype)
    return jax.tree.map(one, weights, is_leaf=is_quantized)


def axes(letters: Any, weights: Any) -> Any:
    """Return the letters of every array in `weights`, given those of the weights."""
    one = lambda own, w: w.axes(own) if is_quantized(w) else own
    return jax.tree.map(one, letters, weights)


# -- the table -------------------------------------------------------------------------------------


@functools.cache
def table() -> np.ndarray:
    """Compute the 16 values of NF4: quantiles of the normal, with an exact zero, scaled to [-1, 1].

    Eight positive and seven negative quantiles are even in probability between 1/2 and the mean of
    1 - 1/30 and 1 - 1/32 (appendix E of the paper).
    """
    # Not 1, whose quantile is infinite.
    last = 1 - (1 / 30 + 1 / 32) / 2
    quantile = statistics.NormalDist().inv_cdf
    positive = [quantile(p) for p in np.linspace(0.5, last, 9)[1:]]
    negative = [-quantile(p) for p in np.linspace(0.5, last, 8)[1:]]
    return np.array(sorted([*negative, 0.0, *positive])) / positive[-1]


def _nearest(x: jax.Array) -> jax.Array:
    # The nearest of 16 sorted values: how many of the 15 midpoints lie below.
    middles = (table()[1:] + table()[:-1]) / 2
    return sum((x > middle).astype(jnp.int32) for middle in middles.tolist())


# -- blocks ----------------------------------------------------------------------------------------


def _split(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cut a shape before the fewest last axes that fill whole blocks; before all if none do."""
    for count in range(1, len(shape)):
        if math.prod(shape[-count:]) % BLOCK == 0:
            return shape[:-count], shape[-count:]
    return (), shape


def _block(w: jax.Array) -> jax.Array:
    lead, last = _split(w.shape)
    flat = w.reshape(*lead, math.prod(last))
    padding = [(0, 0)] * len(lead) + [(0, -flat.shape[-1] % BLOCK)]
    return jnp.pad(flat, padding).reshape(*lead, -1, BLOCK)


def _unblock(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    lead, last = _split(shape)
    flat = blocks.reshape(*lead, -1)
    return flat[..., : math.prod(last)].reshape(shape)


def _round_scales(absmax: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keep scales in 8 bits around their mean (double quantisation)."""
    # Scales are positive; around their mean they need half the range, one bit more of precision.
    mean = absmax.mean()
    flat = (absmax - mean).reshape(-1)
    groups = jnp.pad(flat, (0, -flat.size % GROUP)).reshape(-1, GROUP)
    step = _nonzero(jnp.abs(groups).max(-1) / 127)
    codes = jnp.round(groups / step[:, None]).astype(jnp.int8)
    return codes.reshape(-1)[: flat.size].reshape(absmax.shape), step, mean


def _scales(codes: jax.Array, step: jax.Array, mean: jax.Array) -> jax.Array:
    steps = jnp.repeat(step, GROUP)[: codes.size].reshape(codes.shape)
    return mean + codes * steps


def _nonzero(scale: jax.Array) -> jax.Array:
    # A block of zeros: any scale restores it, and 0 / 0 would not.
    return jnp.where(scale == 0, 1, scale)
