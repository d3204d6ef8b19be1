"""What an objective sees of a model: a policy that gives statistics of the tokens of a batch.

The reference policy of preference losses is the same policy with its adapters off.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ftjax.ops import loss


class Statistics(NamedTuple):
    """Of every target `tokens[:, 1:]`, float32 [B, T-1]."""

    logp: jax.Array  # log p(target)
    logz: jax.Array  # log of the softmax's normaliser
    mean_logit: jax.Array  # mean over the vocabulary, for label smoothing
    entropy: jax.Array  # of the distribution over the vocabulary


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model with parameters {"model": ..., "adapters": ...}."""

    model: Any
    params: Any
    chunk: int

    def hidden(self, batch, key=None) -> jax.Array:
        """Compute final hidden states [B,T,D] of a batch."""
        return self.model.hidden(
            self.params["model"], batch["tokens"], positions_BT=batch["positions"],
            segments_BT=batch["segments"], adapters=self.params.get("adapters"), key=key,
        )  # fmt: skip

    def statistics(self, batch, key=None, *, temperature: float = 1.0) -> Statistics:
        """Score every token of the batch as the target of the position before it.

        What an objective does not look at is not computed under jit.
        """
        x = self.hidden(batch, key) / temperature
        w = self.model.head(self.params["model"], self.params.get("adapters")).astype(x.dtype)
        # All T positions go through, the last with a dummy target: T keeps its round size.
        targets = jnp.roll(batch["tokens"], -1, axis=1)
        logp, logz = loss.logps(x, w, targets, chunk=self.chunk)
        mean_logit = x.astype(jnp.float32) @ w.astype(jnp.float32).mean(0)
        entropy = loss.entropies(x, w, chunk=self.chunk)
        return Statistics(*(each[:, :-1] for each in (logp, logz, mean_logit, entropy)))

    def logps(self, batch, key=None) -> jax.Array:
        """Compute log p of every target [B, T-1]."""
        return self.statistics(batch, key).logp

    def without_adapters(self) -> "Policy":
        """Return the base policy: the same weights, adapters off."""
        return dataclasses.replace(self, params=self.params | {"adapters": None})
