"""What an objective sees of a model: a policy that gives statistics of the tokens of a batch.

The reference policy of preference losses is the same policy with its adapters off.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ftjax.core.mean import Mean
from ftjax.ops import loss


class Statistics(NamedTuple):
    """Of every target `tokens[:, 1:]`, float32 [B, T-1]."""

    logp: jax.Array  # log p(target)
    logz: jax.Array  # log of the softmax's normaliser
    mean_logit: jax.Array  # mean over the vocabulary, for label smoothing
    aux: Mean | None = None  # the family's own loss, such as load balancing; None where it has none


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model with parameters {"model": ..., "adapters": ...}."""

    model: Any
    params: Any
    chunk: int

    def states(self, batch, key=None) -> tuple[jax.Array, Mean | None]:
        """Compute final hidden states [B,T,D] of a batch, and the family's own loss or None."""
        x, aux = self.model.hidden(
            self.params["model"], batch["tokens"], positions_BT=batch["positions"],
            segments_BT=batch["segments"], adapters=self.params.get("adapters"), key=key, aux=True,
        )  # fmt: skip
        return x, self.model.auxiliary_loss(aux, batch["segments"])

    def hidden(self, batch, key=None) -> jax.Array:
        """Compute final hidden states [B,T,D] of a batch."""
        return self.states(batch, key)[0]

    def statistics(self, batch, key=None) -> Statistics:
        """Score every token of the batch as the target of the position before it."""
        x, aux = self.states(batch, key)
        w, cap = self.model.head(self.params["model"], self.params.get("adapters"))
        w = w.astype(x.dtype)
        # All T positions go through, the last with a dummy target: T keeps its round size.
        targets = jnp.roll(batch["tokens"], -1, axis=1)
        logp, logz = loss.logps(x, w, targets, chunk=self.chunk, cap=cap)
        mean_logit = loss.mean_logits(x, w, chunk=self.chunk, cap=cap)
        return Statistics(logp[:, :-1], logz[:, :-1], mean_logit[:, :-1], aux)

    def logps(self, batch, key=None) -> jax.Array:
        """Compute log p of every target [B, T-1]."""
        return self.statistics(batch, key).logp

    def without_adapters(self) -> "Policy":
        """Return the base policy: the same weights, adapters off."""
        return dataclasses.replace(self, params=self.params | {"adapters": None})
