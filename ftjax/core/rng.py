"""Random keys by (seed, step, purpose): nothing is drawn from a shared, moving stream.

A key depends on what it is for and when, never on how many draws came before. So a resumed run
draws what the uninterrupted run drew, and adding a dropout changes no other number.
"""

import zlib

import jax


def named(key: jax.Array, purpose: str) -> jax.Array:
    """Derive a key from a name; the same name gives the same key in every process."""
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def stream(key: jax.Array, step: jax.Array | int, purpose: str) -> jax.Array:
    """Derive the key of one purpose at one step."""
    return jax.random.fold_in(named(key, purpose), step)
