"""What an objective sees of a model: a policy that gives statistics of the tokens of a batch.

A batch is [B,T], or [B,P,T] where answers belong together; every result has its leading axes. The
reference of preference losses is another policy: see `ftjax.train.reference`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ftjax.ops import divergence, loss


class Statistics(NamedTuple):
    """Of every target `tokens[..., 1:]`, float32 [..., T-1]."""

    logp: jax.Array  # log p(target)
    logz: jax.Array  # log of the softmax's normaliser
    mean_logit: jax.Array  # mean over the vocabulary, for label smoothing
    log_squares: jax.Array | None  # log sum_v p_v^2 where asked for; without gradient
    entropy: jax.Array | None  # of the distribution over the vocabulary, where asked for


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model with parameters {"model": ..., "adapters": ..., maybe "head": ...}."""

    model: Any
    params: Any
    chunk: int

    def hidden(self, batch, key=None) -> jax.Array:
        """Compute final hidden states [...,D] of a batch, its leading axes made one."""
        tokens, positions, segments = (
            batch[name].reshape(-1, batch[name].shape[-1])
            for name in ("tokens", "positions", "segments")
        )
        return self.model.hidden(
            self.params["model"], tokens, positions_BT=positions, segments_BT=segments,
            adapters=self.params.get("adapters"), key=key,
        )  # fmt: skip

    def head(self, x) -> jax.Array:
        """Return the output embedding [V,D] in the type of hidden states."""
        return self.model.head(self.params["model"], self.params.get("adapters")).astype(x.dtype)

    def statistics(
        self, batch, key=None, *, squares: bool = False, entropy: bool = False,
        temperature: float = 1.0,
    ) -> Statistics:  # fmt: skip
        """Score every token of the batch as the target of the position before it."""
        x = self.hidden(batch, key) / temperature
        w = self.head(x)
        # All T positions go through, the last with a dummy target: T keeps its round size.
        targets = jnp.roll(batch["tokens"], -1, axis=-1).reshape(x.shape[:2])
        logp, logz = loss.logps(x, w, targets, chunk=self.chunk)
        mean_logit = x.astype(jnp.float32) @ w.astype(jnp.float32).mean(0)
        back = lambda found: found.reshape(batch["tokens"].shape)[..., :-1]
        squared = back(loss.log_squares(x, w, chunk=self.chunk)) if squares else None
        entropies = back(loss.entropies(x, w, chunk=self.chunk)) if entropy else None
        return Statistics(back(logp), back(logz), back(mean_logit), squared, entropies)

    def logps(self, batch, key=None) -> jax.Array:
        """Compute log p of every target [..., T-1]."""
        return self.statistics(batch, key).logp

    def compare(self, other: "Policy", function: Callable, batch, key=None) -> jax.Array:
        """Apply `function(logits, other's logits)` to the distribution of every target."""
        x, y = self.hidden(batch, key), other.hidden(batch)
        found = divergence.along(function, (x, self.head(x)), (y, other.head(y)), chunk=self.chunk)
        return found.reshape(batch["tokens"].shape)[..., :-1]

    def scores(self, batch, key=None, *, head: str = "reward") -> jax.Array:
        """Apply a scalar head to every token [..., T], float32."""
        x = self.hidden(batch, key).astype(jnp.float32)
        found = x @ self.params["head"][head].astype(jnp.float32)
        return found.reshape(batch["tokens"].shape)

    def held(self, batch, key=None) -> "Held":
        """Compute the hidden states of a batch once, for all that is asked of it."""
        return Held(self.model, self.params, self.chunk, self.hidden(batch, key))

    def without_adapters(self) -> "Policy":
        """Return the base policy: the same weights, adapters off."""
        return dataclasses.replace(self, params=self.params | {"adapters": None})


@dataclasses.dataclass(frozen=True)
class Held(Policy):
    """A policy whose hidden states of the batch are there already."""

    states: jax.Array

    def hidden(self, batch, key=None) -> jax.Array:
        """Return the states."""
        return self.states


class Cached:
    """A policy whose log-probabilities came with the batch, as `reference` [..., T] by token."""

    def logps(self, batch, key=None) -> jax.Array:
        """Return log p of every target [..., T-1]."""
        del key
        return batch["reference"][..., 1:]
