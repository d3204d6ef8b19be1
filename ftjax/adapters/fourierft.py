"""FourierFT (arXiv:2405.03003): a change of the weight with few frequencies.

    w' = w + s * Re(ifft2(F))               w as a matrix (out, in); F is zero but at n positions

What trains are the coefficients c at these positions, which follow from `seed` and the matrix's
size by the same draw as PEFT's: a shuffle by the Mersenne Twister, of which the first n count.
With (u, v) a position and o, i a row and column, the change is a low-rank map of cosines and sines,

    s / (out in) * sum over n of c_n cos(2 pi (o u_n / out + i v_n / in)),

and `apply` is LoRA's with these where n is small beside the weight. c starts at zero.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.adapters import lora
from ftjax.adapters.lib import matrix, protocol
from ftjax.core import einsum
from ftjax.core.typed import Count, Natural, Positive

EXAMPLE = dict(frequencies=16, scale=60.0)
SEED = 777
LARGE = (2**32 - 1) // 20  # elements of a matrix from which on 32 bits a draw are too few


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FourierFT(protocol.Adapter):
    """Coefficients c [n]; the scale s, a scalar."""

    c: jax.Array
    scale: jax.Array
    seed: int = dataclasses.field(metadata=dict(static=True))

    FROZEN: ClassVar = ("scale",)

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w + s * Re(ifft2(F)).

        The real part is the transform of F's even part, which is real and so needs half the work.
        """
        _, made, summed = matrix.sizes(equation, w.shape)
        u, v = positions(made, summed, self.c.shape[-1], self.seed)
        even = jnp.zeros((*self.c.shape[:-1], made, summed), jnp.float32)
        even = even.at[..., u, v].add(self.c / 2).at[..., -u % made, -v % summed].add(self.c / 2)
        half = even[..., : summed // 2 + 1].astype(jnp.complex64)
        delta = self.scale * jnp.fft.irfft2(half, s=(made, summed))
        return w + matrix.unflatten(equation, delta, w.shape).astype(w.dtype)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply the low-rank map of rank 2 n where that is less work than a dense one."""
        e, n = einsum.parse(equation), self.c.shape[-1]
        _, made, summed = matrix.sizes(equation, w.shape)
        small = max(made, summed) < 2**16  # products of two of them are exact in 32 bits
        if e.shared or not small or not matrix.low(equation, w.shape, 2 * n):
            return super().apply(equation, x, w, key)
        known = einsum.sizes(e.w, w.shape)
        u, v = positions(made, summed, n, self.seed)
        a = jnp.concatenate(_waves(summed, v), 1).reshape(*(known[c] for c in e.contracted), 2 * n)
        cosine, sine = _waves(made, u)
        b = jnp.concatenate([cosine * self.c, -sine * self.c], 1).T
        b = b.reshape(2 * n, *(known[c] for c in e.kept))
        return lora.LoRA(a, b, self.scale / (made * summed)).apply(equation, x, w)

    def axes(self, equation: str) -> "FourierFT":
        """Letters of c: only the shared ones have a name; the scale has none."""
        return FourierFT(einsum.parse(equation).shared + "R", "", self.seed)


def _waves(size: int, frequency: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Compute cos and sin of 2 pi o f / size, [size, frequencies], float32."""
    turns = jnp.arange(size, dtype=jnp.uint32)[:, None] * frequency.astype(np.uint32) % size
    angle = turns.astype(jnp.float32) * np.float32(2 * np.pi / size)
    return jnp.cos(angle), jnp.sin(angle)


@functools.cache
def positions(made: int, summed: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows and columns of `count` places of a matrix, all different.

    A forward Fisher-Yates shuffle of out * in places, of which only the first `count` are made.
    """
    size, moved, chosen = made * summed, {}, []
    dtype = np.uint32 if size < LARGE else np.uint64
    draws = np.random.RandomState(seed).randint(0, np.iinfo(dtype).max + 1, count, dtype)
    for here, draw in enumerate(draws.tolist()):
        there = here + draw % (size - here)
        chosen.append(moved.get(there, there))
        moved[there] = moved.get(here, here)
    places = np.asarray(chosen)
    return places // summed, places % summed


def make(*, frequencies: Count, scale: Positive, seed: Natural = SEED):
    """Make the initialiser of FourierFT adapters, float32 whatever the base's dtype.

    Args:
      frequencies: coefficients of each weight; a weight with fewer elements gets as many as it has.
      scale: of the change; the papers' 60 to 300 are for hundreds of frequencies.
      seed: of the positions.

    Raises:
      ValueError: there are no frequencies.
    """
    if frequencies < 1:
        raise ValueError(f"adapter.frequencies: got {frequencies}; expected at least 1")

    def init(key: jax.Array, site, w: jax.Array) -> FourierFT:
        lead, made, summed = matrix.sizes(site.equation, w.shape)
        c = jnp.zeros((*lead, min(frequencies, made * summed)), jnp.float32)
        return FourierFT(c, jnp.float32(scale), seed)

    return init
