"""Normalisation layers: RMSNorm (arXiv:1910.07467), computed in float32."""

import jax
import jax.numpy as jnp


def rms_norm(x: jax.Array, scale: jax.Array, *, eps: float) -> jax.Array:
    """Divide by the root mean square over the last axis, then multiply by `scale`; dtype of `x`.

    The scale enters after the cast back, as in the reference implementation of Llama.
    """
    x_32 = x.astype(jnp.float32)
    x_32 = x_32 * jax.lax.rsqrt(jnp.mean(x_32 * x_32, axis=-1, keepdims=True) + eps)
    return x_32.astype(x.dtype) * scale.astype(x.dtype)


def rms_norm_wide(x: jax.Array, scale: jax.Array, *, eps: float) -> jax.Array:
    """Do the same with the scale in float32 too, before the cast back, as OLMo 2 does."""
    x_32 = x.astype(jnp.float32)
    x_32 = x_32 * jax.lax.rsqrt(jnp.mean(x_32 * x_32, axis=-1, keepdims=True) + eps)
    return (x_32 * scale.astype(jnp.float32)).astype(x.dtype)


def rms_norm_around_one(x: jax.Array, scale: jax.Array, *, eps: float) -> jax.Array:
    """Multiply by `1 + scale`, in float32, as Gemma does."""
    return rms_norm_wide(x, 1 + scale.astype(jnp.float32), eps=eps)
