"""An adapter that changes nothing and sees what comes in: second moments as a gradient.

    m = sum over tokens of x x^T        is the gradient that `moments` gets, whatever the loss

The forward pass is the base's. The backward pass gives the probe what it saw and nothing to what
lies before, so it measures through `ops.linear` alone, over any model, scan and quantised base.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.core import einsum, tree
from ftjax.ops import fast, lowrank, products


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InputMoments(protocol.Adapter):
    """`moments` float32 [in, in], zeros; `seen` float32 [B, T], 1 for the tokens that count."""

    moments: jax.Array
    seen: Any  # `Shared` in a stack of layers

    FROZEN: ClassVar = ("moments", "seen")

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Return w."""
        return w

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply w."""
        return _watched(equation, x, w, self.moments, self.seen)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _watched(equation, x, w, moments, seen):
    del moments, seen
    return fast.contract(equation, x, w)


def _forward(equation, x, w, moments, seen):
    return _watched(equation, x, w, moments, seen), (x, w, seen)


def _backward(equation, residuals, g):
    del g
    x, w, seen = residuals
    rows = x.reshape(seen.size, -1).astype(jnp.float32)
    moments = products.matmul((rows * seen.reshape(-1, 1)).T, rows)
    return jnp.zeros_like(x), jnp.zeros_like(w), moments, jnp.zeros_like(seen)


_watched.defvjp(_forward, _backward)


def fits(site) -> bool:
    """Return whether the inputs of a linear map are rows [B, T] that a probe can see."""
    e = einsum.parse(site.equation)
    return site.stack is not None and e.x == "BT" + e.contracted


def moments(model, path: str, params, batch) -> jax.Array:
    """Sum x x^T over the tokens of a batch, x the inputs of one stack of maps: [L, in, in].

    Memory: that of a backward pass without the weights' gradients, and the result, in float32.
    """
    site = model.linears[path]
    inside = lowrank.sides(site.equation, site.shape)[0]
    tokens, positions, segments = (
        batch[name].reshape(-1, batch[name].shape[-1])
        for name in ("tokens", "positions", "segments")
    )
    seen = (segments > 0).astype(jnp.float32)

    def run(zeros):
        adapters: dict = {}
        protocol.insert(adapters, path, InputMoments(zeros, tree.Shared(seen)))
        where = dict(positions_BT=positions, segments_BT=segments, adapters=adapters)
        return model.hidden(params, tokens, **where).astype(jnp.float32).sum()

    return jax.grad(run)(jnp.zeros((site.stack, inside, inside), jnp.float32))
