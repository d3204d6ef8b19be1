"""Averages that stay exact when they are added: `Mean(total, weight)`.

A metric over tokens is a sum and a count that travel together; microbatches, devices and hosts add
both and divide once. Averaging averages would weigh a short batch like a long one.

    (Mean.of(x) + Mean.of(y)).value() == mean of x and y together
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A weighted sum and its weight: scalars, float32."""

    total: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, values, weights=None) -> "Mean":
        """Sum `values` under `weights` of the same shape (ones when not given)."""
        values = jnp.asarray(values, jnp.float32)
        weights = jnp.ones_like(values) if weights is None else weights.astype(jnp.float32)
        return cls((values * weights).sum(), weights.sum())

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.weight + other.weight)

    def scale(self, factor) -> "Mean":
        """Multiply the value, keeping the weight."""
        return Mean(self.total * factor, self.weight)

    def value(self) -> jax.Array:
        """Divide; 0 where nothing was counted."""
        return jnp.where(
            self.weight == 0, 0.0, self.total / jnp.where(self.weight == 0, 1, self.weight)
        )
