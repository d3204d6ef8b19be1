"""VeRA (arXiv:2310.11454): low-rank maps through random projections that all layers share.

    w' = w + a diag(d) b diag(g)            a, b as LoRA's, but drawn once and never trained

What trains are the vectors d over the rank and g over the kept letters; g starts at zero. The
projections of every site are the beginnings of the same two large ones, drawn from `seed`; as in
the paper their variance is 2 / fan in, here of the site itself.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters import base, lora, matrix
from ftjax.core import einsum

EXAMPLE = dict(rank=4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VeRA(base.Adapter):
    """Projections a (contracted letters, R), b (R, kept letters); vectors d (R), g (kept)."""

    a: jax.Array
    b: jax.Array
    d: jax.Array
    g: jax.Array

    FROZEN: ClassVar = ("a", "b")

    def _lora(self, equation: str) -> lora.LoRA:
        """Write it as LoRA. Both vectors go to b, since nothing flows back to a."""
        e, shared = einsum.lora(equation), einsum.parse(equation).shared
        b = matrix.scaled(e.b, self.b, shared + "R", self.d)
        b = matrix.scaled(e.b, b, shared + einsum.parse(equation).kept, self.g)
        return lora.LoRA(self.a, b, jnp.float32(1))

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w + a diag(d) b diag(g)."""
        return self._lora(equation).merge(equation, w)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply LoRA with b' = diag(d) b diag(g)."""
        return self._lora(equation).apply(equation, x, w)

    def axes(self, equation: str) -> "VeRA":
        """Letters of the projections and of the vectors."""
        e, parsed = einsum.lora(equation), einsum.parse(equation)
        return VeRA(e.a, e.b, parsed.shared + "R", parsed.shared + parsed.kept)


def make(*, rank: int, d_initial: float = 0.1, seed: int = 0):
    """Make the initialiser of VeRA adapters, float32 whatever the base's dtype.

    Raises:
      ValueError: the rank is not positive.
    """
    if rank < 1:
        raise ValueError(f"adapter.rank: got {rank}; expected at least 1")

    def init(key: jax.Array, site, w: jax.Array) -> VeRA:
        e, parsed = einsum.lora(site.equation), einsum.parse(site.equation)
        known = einsum.sizes(parsed.w, w.shape) | {"R": rank}
        shape = lambda letters: [known[c] for c in letters]
        a_key, b_key = jax.random.split(jax.random.key(seed))
        summed, made = (einsum.size(c, known) for c in (parsed.contracted, parsed.kept))
        a = _draw(a_key, summed, rank) * (6 / summed) ** 0.5
        b = _draw(b_key, made, rank).T * (6 / rank) ** 0.5
        d = jnp.full(shape(parsed.shared + "R"), d_initial, jnp.float32)
        return VeRA(
            jnp.broadcast_to(a.reshape(shape(e.a[len(parsed.shared) :])), shape(e.a)),
            jnp.broadcast_to(b.reshape(shape(e.b[len(parsed.shared) :])), shape(e.b)),
            d, jnp.zeros(shape(parsed.shared + parsed.kept), jnp.float32),
        )  # fmt: skip

    return init


def _draw(key: jax.Array, rows: int, rank: int) -> jax.Array:
    """Draw [rows, rank] uniform in +-1 so that more rows begin with the same ones."""
    one = lambda row: jax.random.uniform(
        jax.random.fold_in(key, row), (rank,), jnp.float32, -1.0, 1.0
    )
    return jax.vmap(one)(jnp.arange(rows))
