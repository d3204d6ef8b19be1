"""What an objective sees of a model: a policy that gives statistics of the tokens of a batch.

A batch is [B,T], or [B,P,T] where answers belong together; every result has its leading axes. The
reference of preference losses is another policy: see `ftjax.train.reference_policy`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ftjax.core import mesh
from ftjax.core.mean import Mean
from ftjax.ops import divergence, products
from ftjax.ops import loss as losses


class Statistics(NamedTuple):
    """Of every target `tokens[..., 1:]`, float32 [..., T-1]."""

    logp: jax.Array  # log p(target)
    logz: jax.Array  # log of the softmax's normaliser
    mean_logit: jax.Array  # mean over the vocabulary, for label smoothing
    log_squares: jax.Array | None  # log sum_v p_v^2 where asked for; without gradient
    entropy: jax.Array | None = None  # of the distribution over the vocabulary, where asked for


class Total(NamedTuple):
    """A weighted sum over all targets."""

    value: jax.Array  # float32 scalar
    logp: jax.Array  # log p(target) [..., T-1], without gradient


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model with parameters {"model": ..., "adapters": ..., maybe "head": ...}.

    own_terms: where every forward pass leaves the family's own "loss" (such as the load balancing
      of experts) and metrics, for whoever differentiates; None = they are not wanted.
    """

    model: Any
    params: Any
    chunk: int
    own_terms: list[dict[str, Mean]] | None = dataclasses.field(default=None, kw_only=True)

    def hidden(self, batch, key=None) -> jax.Array:
        """Compute final hidden states [..., T, D] of a batch, its leading axes made one."""
        tokens, positions, segments = (
            mesh.constrain(batch[name].reshape(-1, batch[name].shape[-1]), "BT")
            for name in ("tokens", "positions", "segments")
        )
        x, aux = self.model.hidden(
            self.params["model"], tokens, positions_BT=positions, segments_BT=segments,
            adapters=self.params.get("adapters"), key=key, aux=True,
        )  # fmt: skip
        terms = self.model.auxiliary_terms(aux, segments)
        if terms is not None and self.own_terms is not None:
            self.own_terms.append(terms)
        return x

    def head(self, x) -> tuple[jax.Array, float | None]:
        """Return the output embedding [V,D] in the type of hidden states, and the logits' cap."""
        w, cap = self.model.head(self.params["model"], self.params.get("adapters"))
        # A float32 master would make the widest product of the model a float32 one.
        return w.astype(x.dtype), cap

    def statistics(
        self, batch, key=None, *, squares: bool = False, entropy: bool = False,
        temperature: float = 1.0,
    ) -> Statistics:  # fmt: skip
        """Score every token of the batch as the target of the position before it."""
        x = self.hidden(batch, key)
        w, cap = self.head(x)
        # Scaling hidden states and the cap scales the capped logits: c/T tanh((x/T) w / (c/T)).
        x, cap = x / temperature, None if cap is None else cap / temperature
        # All T positions go through, the last with a dummy target: T keeps its round size.
        targets = jnp.roll(batch["tokens"], -1, axis=-1).reshape(x.shape[:2])
        logp, logz = losses.logps(x, w, targets, chunk=self.chunk, cap=cap)
        mean_logit = losses.mean_logits(x, w, chunk=self.chunk, cap=cap)
        back = lambda found: found.reshape(batch["tokens"].shape)[..., :-1]
        of_logits = lambda f: back(losses.along(f, (x, w, cap), chunk=self.chunk))
        squared = back(losses.log_squares(x, w, chunk=self.chunk, cap=cap)) if squares else None
        entropies = of_logits(divergence.entropy) if entropy else None
        # What an objective does not use of these, the compiler leaves out.
        return Statistics(back(logp), back(logz), back(mean_logit), squared, entropies)

    def total(self, loss: Callable, batch, weights, key=None) -> Total:
        """Sum `weights * loss(log p, log Z, mean logit)` over the targets.

        The same number as from `statistics`, for less: see `ops.loss.total`.
        """
        x = self.hidden(batch, key)
        w, cap = self.head(x)
        targets = jnp.roll(batch["tokens"], -1, axis=-1).reshape(x.shape[:2])
        # The last position has a dummy target, and so the weight 0.
        last = [(0, 0)] * (weights.ndim - 1) + [(0, 1)]
        own = jnp.pad(weights, last).reshape(x.shape[:2]).astype(jnp.float32)
        value, logp = losses.total(loss, x, w, targets, own, chunk=self.chunk, cap=cap)
        return Total(value, logp.reshape(batch["tokens"].shape)[..., :-1])

    def logps(self, batch, key=None) -> jax.Array:
        """Compute log p of every target [..., T-1]."""
        return self.statistics(batch, key).logp

    def compare(
        self, other: "Policy", function: Callable, batch, key=None, *, targets: bool = False
    ) -> jax.Array:
        """Apply `function(logits, other's logits)` to the distribution of every target.

        targets: the function has the targets, int like the logits less V, as its third argument.
        """
        # No key for the other one: a teacher computes without dropout.
        x, y = self.hidden(batch, key), other.hidden(batch)
        models = (x, *self.head(x)), (y, *other.head(y))
        # The last position has a dummy target.
        next_BT = jnp.roll(batch["tokens"], -1, axis=-1).reshape(x.shape[:2]) if targets else None
        found = losses.along(function, *models, chunk=self.chunk, targets_BT=next_BT)
        return found.reshape(batch["tokens"].shape)[..., :-1]

    def scores(self, batch, key=None, *, head: str = "reward") -> jax.Array:
        """Apply a scalar head to every token [..., T], float32."""
        # bfloat16 keeps two to three digits: close scores would tie, and a pair have no order.
        x = self.hidden(batch, key).astype(jnp.float32)
        found = products.einsum("BTD,D->BT", x, self.params["head"][head].astype(jnp.float32))
        return found.reshape(batch["tokens"].shape)

    def with_hidden(self, batch, key=None) -> "CachedHiddenPolicy":
        """Compute the hidden states of a batch once, for all that is asked of it."""
        return CachedHiddenPolicy(self.model, self.params, self.chunk, self.hidden(batch, key))

    def without_adapters(self) -> "Policy":
        """Return the base policy: the same weights, adapters off."""
        return dataclasses.replace(self, params=self.params | {"adapters": None})

    def without_gradient(self) -> "Policy":
        """Return the same policy for what no gradient goes through."""
        # own_terms=None: load balancing is a loss of the pass that trains, and counts once.
        params = jax.lax.stop_gradient(self.params)
        return dataclasses.replace(self, params=params, own_terms=None)


@dataclasses.dataclass(frozen=True)
class CachedHiddenPolicy(Policy):
    """A policy whose hidden states of the batch are there already."""

    states: jax.Array

    def hidden(self, batch, key=None) -> jax.Array:
        """Return them."""
        return self.states


class Cached:
    """A policy whose log-probabilities came with the batch, as `reference` [..., T] by token."""

    def logps(self, batch, key=None) -> jax.Array:
        """Return log p of every target [..., T-1]."""
        del key
        return batch["reference"][..., 1:]
