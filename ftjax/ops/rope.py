"""Rotary position embeddings (arXiv:2104.09864) and the rescalings of their frequencies.

A head's first and second half are rotated as pairs (x_i, x_{i+H/2}) by `position * f_i`, with
`f_i = theta^(-2i/H)`. Scalings change the frequencies once, before training:

    default   f
    linear    f / factor                                     (arXiv:2306.15595)
    llama3    f where the wavelength is short, f / factor where it is long, a blend in between
    longrope  f_i / short_factor_i or f_i / long_factor_i    (arXiv:2402.13753)
    yarn      f where it turns often in the original context, f / factor where it hardly turns, a
              ramp over i in between                         (arXiv:2309.00071)
    dynamic   f of the base theta * alpha^(H/(H-2)), whatever the length (Hunyuan)

A partial rotation turns the first `partial * H` features of a head, as if they were all of it, and
leaves the others as they are. A "proportional" one (Gemma 4) keeps the pairs and the frequencies of
the whole head, and has none beyond the first `partial * H / 2`. An interleaved one turns neighbours
(x_2i, x_2i+1) as pairs.
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
    interleaved: bool = False  # pairs are neighbours, not halves


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
    if rope.kind == "proportional":
        return _proportional(rope, head_dim)
    rotated = int(head_dim * rope.partial)
    # float64 on the host: a phase error in float32 would grow with the position.
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
        case "yarn":
            scaled = _yarn(f, numbers, theta=rope.theta)
        case "dynamic":
            scaled = f ** (1 + math.log(numbers["alpha"], rope.theta) * rotated / (rotated - 2))
        case other:
            raise ValueError(
                f"rope: got the kind {other!r}; expected default, linear, llama3, longrope, yarn, "
                "dynamic or proportional"
            )
    # Rounded once, after all scalings.
    return scaled.astype(np.float32)


def attention_factor(rope: Rope) -> float:
    """Compute what longrope and yarn multiply rotated queries and keys by; 1 for other kinds."""
    numbers = dict(rope.numbers)
    if rope.kind not in ("longrope", "yarn"):
        return 1.0
    if "attention_factor" in numbers:
        return numbers["attention_factor"]
    if rope.kind == "yarn":
        both = "mscale" in numbers and "mscale_all_dim" in numbers
        weights = (numbers["mscale"], numbers["mscale_all_dim"]) if both else (1.0, 0.0)
        above, below = (yarn_temperature(numbers["factor"], weight) for weight in weights)
        return above / below
    factor, original = numbers["factor"], numbers["original_max_position_embeddings"]
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def yarn_temperature(factor: float, weight: float) -> float:
    """Compute 0.1 weight ln(factor) + 1, by which yarn's scores grow with the context."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn(f, numbers, *, theta: float) -> np.ndarray:
    """Blend f and f / factor along a ramp over the places i of f_i.

    Its ends are where a feature turns `beta_fast` and `beta_slow` times in the original context;
    `truncate` rounds them outwards.
    """
    original, rotated = numbers["original_max_position_embeddings"], 2 * len(f)
    place = lambda turns: rotated * math.log(original / (turns * 2 * math.pi), theta) / 2
    low, high = place(numbers["beta_fast"]), place(numbers["beta_slow"])
    if numbers["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    high += 0.001 * (low == high)  # as in the reference: no division by zero
    slow = np.clip((np.arange(len(f)) - low) / (high - low), 0, 1)
    return f * (1 - slow) + f / numbers["factor"] * slow


def query_factor(rope: Rope, positions_BT: jax.Array) -> jax.Array | None:
    """Compute 1 + beta ln(1 + floor(position / original)), which multiplies rotated queries.

    [B,T,1,1] float32; None where the checkpoint names no `llama_4_scaling_beta`.
    """
    numbers = dict(rope.numbers)
    if "llama_4_scaling_beta" not in numbers:
        return None
    laps = positions_BT // int(numbers["original_max_position_embeddings"])
    # Whole laps, as the reference floors them: within the first the factor is exactly 1.
    factor = 1 + numbers["llama_4_scaling_beta"] * jnp.log1p(laps.astype(jnp.float32))
    return factor[..., None, None]


def _proportional(rope: Rope, head_dim: int) -> np.ndarray:
    """Keep the frequencies of the whole head for the first part of the pairs; the rest stand."""
    whole = inverse_frequencies(Rope(rope.theta), head_dim)
    turning = np.arange(len(whole)) < int(rope.partial * head_dim // 2)
    return np.where(turning, whole, np.float32(0))


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
    frequencies: np.ndarray, positions_BT: jax.Array, *, factor: float = 1.0,
    interleaved: bool = False,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Compute cosines [B,T,1,1,R/2] and signed sines (-sin, sin) [B,T,1,2,R/2] in float32.

    R is the number of rotated features; for interleaved ones the last two axes change places.
    `factor` multiplies both; see `attention_factor`.
    """
    # Positions past 256 are no bfloat16 numbers: angles are float32 whatever the model computes in.
    angles = positions_BT[..., None, None, None].astype(jnp.float32) * frequencies
    sin = factor * jnp.sin(angles)
    both = factor * jnp.cos(angles), jnp.concatenate([-sin, sin], axis=-2)
    return tuple(x.swapaxes(-1, -2) for x in both) if interleaved else both


def tables_of(
    rope: Rope, head_dim: int, positions_BT: jax.Array, *, length: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Compute the tables of a rotary embedding at these positions, in a context of `length`."""
    frequencies = inverse_frequencies(rope, head_dim, length=length)
    factor = attention_factor(rope)
    return tables(frequencies, positions_BT, factor=factor, interleaved=rope.interleaved)


def rotate(x_BTNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate the pairs of each head by the tables' angles; dtype of `x`.

    The two of a pair change places by reversing an axis of two, which stays one vectorised pass
    over `x`, forward and backward, where joining two halves would not. Features that the tables do
    not reach pass through.
    """
    rotated = sin.shape[-1] * sin.shape[-2]
    if rotated < x_BTNH.shape[-1]:
        turned = rotate(x_BTNH[..., :rotated], cos, sin)
        return jnp.concatenate([turned, x_BTNH[..., rotated:]], axis=-1)
    # [.., 2, R/2] for halves, [.., R/2, 2] for neighbours: the tables' shape says which.
    pairs = x_BTNH.reshape(*x_BTNH.shape[:-1], *sin.shape[-2:])
    # The sines have both signs along the axis of two, the cosines one value.
    swapped = jnp.flip(pairs, -2 if cos.shape[-2] < sin.shape[-2] else -1)
    # The tables are cast and not x, as in the reference: a product in float32 would keep two copies
    # of the queries.
    turned = pairs * cos.astype(x_BTNH.dtype) + swapped * sin.astype(x_BTNH.dtype)
    return turned.reshape(x_BTNH.shape)
