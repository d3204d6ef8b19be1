"""Rotary position embeddings (arXiv:2104.09864) and the rescalings of their frequencies.

A head's first and second half are rotated as pairs (x_i, x_{i+H/2}) by `position * f_i`, with
`f_i = theta^(-2i/H)`. Scalings change the frequencies once, before training:

    default   f
    linear    f / factor                                     (arXiv:2306.15595)
    llama3    f where the wavelength is short, f / factor where it is long, a blend in between
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Rope:
    """Frequencies of one rotary embedding; every number comes from the checkpoint's config.

    `scaling` is `(kind, ((key, value), ...))` so that it can be hashed; see `inverse_frequencies`.
    """

    theta: float
    kind: str = "default"
    numbers: tuple[tuple[str, float], ...] = ()


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Compute the angular frequencies, shape (head_dim // 2,), radians per position, float32.

    Raises:
      ValueError: an unknown kind of scaling.
    """
    f = 1.0 / rope.theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    numbers = dict(rope.numbers)
    match rope.kind:
        case "default":
            scaled = f
        case "linear":
            scaled = f / numbers["factor"]
        case "llama3":
            scaled = _llama3(f, **numbers)
        case other:
            raise ValueError(f"rope: got the kind {other!r}; expected default, linear or llama3")
    return scaled.astype(np.float32)


def _llama3(f, *, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    turns = original_max_position_embeddings * f / (2 * math.pi)  # within the original context
    blend = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return blend * f + (1 - blend) * f / factor


def tables(frequencies: np.ndarray, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute cosines [B,T,1,1,H/2] and signed sines (-sin, sin) [B,T,1,2,H/2] in float32."""
    angles = positions_BT[..., None, None, None].astype(jnp.float32) * frequencies
    sin = jnp.sin(angles)
    return jnp.cos(angles), jnp.concatenate([-sin, sin], axis=-2)


def tables_of(rope: Rope, head_dim: int, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the tables of a rotary embedding at these positions."""
    return tables(inverse_frequencies(rope, head_dim), positions_BT)


def rotate(x_BTNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate the halves of each head by the tables' angles; dtype of `x`.

    The halves change places by reversing an axis of two, which stays one vectorised pass over `x`,
    forward and backward, where joining two halves would not.
    """
    halves = x_BTNH.reshape(*x_BTNH.shape[:-1], 2, -1)
    turned = halves * cos.astype(x_BTNH.dtype) + halves[..., ::-1, :] * sin.astype(x_BTNH.dtype)
    return turned.reshape(x_BTNH.shape)
