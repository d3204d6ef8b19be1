"""VeRA (arXiv:2310.11454): low-rank maps through random projections that all layers share.

    w' = w + s * a diag(d) b diag(g)        a, b lettered as LoRA's, drawn once and never trained

What trains are the vectors d over the rank and g over the kept letters; g starts at zero. The
projections of every map are the beginnings of the same two, drawn from `seed`, uniform with
variance 2 and 2 / R; s = 1 / sqrt(fan in), so that a has the paper's variance 2 / fan in.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters import lora
from ftjax.adapters.lib import matrix
from ftjax.core import einsum, tree
from ftjax.core.typed import Count, Natural, Positive

EXAMPLE = dict(rank=4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VeRA(lora.AsLoRA):
    """Projections a (contracted letters, R), b (R, kept); vectors d (R), g (kept); scale s."""

    a: jax.Array
    b: jax.Array
    d: jax.Array
    g: jax.Array
    scale: jax.Array

    FROZEN: ClassVar = ("a", "b", "scale")
    PADS: ClassVar = True

    def as_lora(self, equation: str) -> lora.LoRA:
        """Write it as LoRA. Both vectors go to b, since no gradient goes to a."""
        e, parsed = einsum.lora(equation), einsum.parse(equation)
        b = matrix.scaled(e.b, self.b, parsed.shared + "R", self.scale * self.d)
        b = matrix.scaled(e.b, b, parsed.shared + parsed.kept, self.g)
        return lora.LoRA(self.a, b, jnp.float32(1))

    def axes(self, equation: str) -> "VeRA":
        """Letters of the projections, which layers share, and of the vectors."""
        e, parsed = einsum.lora(equation), einsum.parse(equation)
        a, b = tree.Shared(e.a), tree.Shared(e.b)
        return VeRA(a, b, parsed.shared + "R", parsed.shared + parsed.kept, "")


def make(*, rank: Count, d_initial: Positive = 0.1, seed: Natural = 0):
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
        summed, made = (einsum.size(c, known) for c in (parsed.contracted, parsed.kept))
        a_key, b_key = jax.random.split(jax.random.key(seed))
        # Experts share the projections, too.
        a = _draw(a_key, summed, rank).reshape(shape(parsed.contracted + "R"))
        b = (_draw(b_key, made, rank) / rank**0.5).T.reshape(shape("R" + parsed.kept))
        d = jnp.full(shape(parsed.shared + "R"), d_initial, jnp.float32)
        g = jnp.zeros(shape(parsed.shared + parsed.kept), jnp.float32)
        b = jnp.expand_dims(b, tuple(range(1, 1 + len(parsed.shared))))  # the rank comes first
        a, b = jnp.broadcast_to(a, shape(e.a)), jnp.broadcast_to(b, shape(e.b))
        return VeRA(tree.Shared(a), tree.Shared(b), d, g, jnp.float32(summed**-0.5))

    return init


def _draw(key: jax.Array, rows: int, rank: int) -> jax.Array:
    """Draw [rows, rank] of variance 2, so that more rows begin with the same ones."""
    bound = 6**0.5
    one = lambda row: jax.random.uniform(
        jax.random.fold_in(key, row), (rank,), jnp.float32, -bound, bound
    )
    return jax.vmap(one)(jnp.arange(rows))
