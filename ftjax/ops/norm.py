"""Normalisation layers, computed in float32: RMSNorm (arXiv:1910.07467), LayerNorm (1607.06450)."""

import jax
import jax.numpy as jnp


def rms_norm(x: jax.Array, scale: jax.Array, *, eps: float) -> jax.Array:
    """Divide by the root mean square over the last axis, then multiply by `scale`; dtype of `x`.

    The scale enters after the cast back, as in the reference implementation of Llama.
    """
    # In bfloat16 the mean of D squares would keep 8 bits, and every feature is divided by it.
    x_32 = x.astype(jnp.float32)
    x_32 = x_32 * jax.lax.rsqrt(jnp.mean(x_32 * x_32, axis=-1, keepdims=True) + eps)
    # The order of cast and scale is the checkpoint's: logits of bfloat16 models differ in it.
    return x_32.astype(x.dtype) * scale.astype(x.dtype)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, *, eps: float) -> jax.Array:
    """Centre and divide by the standard deviation over the last axis, then scale and shift."""
    # Squares of bfloat16 numbers, summed over thousands, need more bits than it has.
    x_32 = x.astype(jnp.float32)
    x_32 = x_32 - jnp.mean(x_32, axis=-1, keepdims=True)
    x_32 = x_32 * jax.lax.rsqrt(jnp.mean(x_32 * x_32, axis=-1, keepdims=True) + eps)
    return x_32.astype(x.dtype) * scale.astype(x.dtype) + bias.astype(x.dtype)


def rms_norm_wide(x: jax.Array, scale: jax.Array, *, eps: float) -> jax.Array:
    """Do the same with the scale in float32 too, before the cast back, as OLMo 2 does."""
    x_32 = x.astype(jnp.float32)
    x_32 = x_32 * jax.lax.rsqrt(jnp.mean(x_32 * x_32, axis=-1, keepdims=True) + eps)
    # One rounding in place of two: OLMo 2 and Gemma were trained so.
    return (x_32 * scale.astype(jnp.float32)).astype(x.dtype)


def rms_norm_around_one(x: jax.Array, scale: jax.Array, *, eps: float) -> jax.Array:
    """Multiply by `1 + scale`, in float32, as Gemma does."""
    return rms_norm_wide(x, 1 + scale.astype(jnp.float32), eps=eps)
