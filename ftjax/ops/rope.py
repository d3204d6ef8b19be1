"""Rotary position embeddings (arXiv:2104.09864) and the rescalings of their frequencies.

A head's first and second half are rotated as pairs (x_i, x_{i+H/2}) by `position * f_i`, with
`f_i = theta^(-2i/H)`. Scalings change the frequencies once, before training:

    default   f
    linear    f / factor                                     (arXiv:2306.15595)
    llama3    f where the wavelength is short, f / factor where it is long, a blend in between
    longrope  f_i / short_factor_i or f_i / long_factor_i    (arXiv:2402.13753)

A partial rotation turns the first `partial * H` features of a head, as if they were all of it, and
leaves the others as they are.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Rope:
    """Frequencies of one rotary embedding; every number comes from the checkpoint's config.

    `numbers` are those of the kind of scaling, by name; pairs and tuples, so that it can be hashed.
    """

    theta: float
    kind: str = "default"
    numbers: tuple[tuple[str, float | tuple[float, ...]], ...] = ()
    partial: float = 1.0  # the part of each head that is rotated


def inverse_frequencies(rope: Rope, head_dim: int, *, length: int | None = None) -> np.ndarray:
    """Compute the angular frequencies, radians per position, float32 (rotated features / 2,).

    `length` is the length of the context, which longrope chooses its factors by: the short ones up
    to the original length. It is a static number, that of the padded rows or of the cache, and not
    the one of the tokens seen so far: keys once cached were rotated for good. The reference
    implementation reads the width of the padded batch too; only where it decodes across the
    original length does it change its mind, and computes the cache anew.

    Raises:
      ValueError: an unknown kind of scaling, or longrope without a length.
    """
    rotated = int(head_dim * rope.partial)
    f = 1.0 / rope.theta ** (np.arange(0, rotated, 2, dtype=np.float64) / rotated)
    numbers = dict(rope.numbers)
    match rope.kind:
        case "default":
            scaled = f
        case "linear":
            scaled = f / numbers["factor"]
        case "llama3":
            scaled = _llama3(f, **numbers)
        case "longrope":
            scaled = f / _longrope_factors(numbers, length)
        case other:
            raise ValueError(
                f"rope: got the kind {other!r}; expected default, linear, llama3 or longrope"
            )
    return scaled.astype(np.float32)


def attention_factor(rope: Rope) -> float:
    """Compute what longrope multiplies rotated queries and keys by; 1 for the other kinds."""
    numbers = dict(rope.numbers)
    if rope.kind != "longrope":
        return 1.0
    if "attention_factor" in numbers:
        return numbers["attention_factor"]
    factor, original = numbers["factor"], numbers["original_max_position_embeddings"]
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _longrope_factors(numbers, length: int | None) -> np.ndarray:
    if length is None:
        raise ValueError("rope: longrope got no length of the context; expected a number")
    long = length > numbers["original_max_position_embeddings"]
    return np.array(numbers["long_factor" if long else "short_factor"])


def _llama3(f, *, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    turns = original_max_position_embeddings * f / (2 * math.pi)  # within the original context
    blend = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return blend * f + (1 - blend) * f / factor


def tables(
    frequencies: np.ndarray, positions_BT: jax.Array, *, factor: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Compute cosines [B,T,1,1,R/2] and signed sines (-sin, sin) [B,T,1,2,R/2] in float32.

    R is the number of rotated features. `factor` multiplies both; see `attention_factor`.
    """
    angles = positions_BT[..., None, None, None].astype(jnp.float32) * frequencies
    sin = factor * jnp.sin(angles)
    return factor * jnp.cos(angles), jnp.concatenate([-sin, sin], axis=-2)


def tables_of(
    rope: Rope, head_dim: int, positions_BT: jax.Array, *, length: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Compute the tables of a rotary embedding at these positions, in a context of `length`."""
    frequencies = inverse_frequencies(rope, head_dim, length=length)
    return tables(frequencies, positions_BT, factor=attention_factor(rope))


def rotate(x_BTNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate the halves of each head by the tables' angles; dtype of `x`.

    The halves change places by reversing an axis of two, which stays one vectorised pass over `x`,
    forward and backward, where joining two halves would not. Features that the tables do not reach
    pass through.
    """
    rotated = 2 * cos.shape[-1]
    if rotated < x_BTNH.shape[-1]:
        turned = rotate(x_BTNH[..., :rotated], cos, sin)
        return jnp.concatenate([turned, x_BTNH[..., rotated:]], axis=-1)
    halves = x_BTNH.reshape(*x_BTNH.shape[:-1], 2, -1)
    turned = halves * cos.astype(x_BTNH.dtype) + halves[..., ::-1, :] * sin.astype(x_BTNH.dtype)
    return turned.reshape(x_BTNH.shape)
