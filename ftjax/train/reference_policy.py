"""The reference of preference losses and the teacher of distillation: `(policy, batch) -> policy`.

    adapters_off   the policy's own base: nothing is stored, and nothing trains it
    frozen         params["reference"] = {"model", "adapters"}: where the run started
    cached         log-probabilities that came with the batch, computed once before training

Around any but the third, `shown` lets a teacher see other prompts before the same answers.

What they get holds parameters without gradient, and they compute without dropout.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ftjax.train.policy import Cached, Policy


@dataclasses.dataclass(frozen=True)
class Shown(Policy):
    """A policy that reads the answers of a batch behind prompts of its own.

    batch: shown_tokens, shown_positions, shown_segments [B, T'], and shown_shift [B], the columns
    by which an answer is further right there.
    """

    def hidden(self, batch, key=None) -> jax.Array:
        """Compute final hidden states, each where the batch's own tokens have it; [B, T, D]."""
        own = {name: batch[f"shown_{name}"] for name in ("tokens", "positions", "segments")}
        x_BSD = super().hidden(own, key)
        places_BT = jnp.arange(batch["tokens"].shape[-1]) + batch["shown_shift"][:, None]
        # Before an answer there is nothing to align: no target of a prompt counts.
        places_BT = jnp.clip(places_BT, 0, x_BSD.shape[1] - 1)
        return jnp.take_along_axis(x_BSD, places_BT[..., None], axis=1)


def shown(reference: Callable) -> Callable:
    """Let a reference see what `rollout.demo` shows it."""

    def see(policy: Policy, batch) -> Shown:
        own = reference(policy, batch)
        return Shown(own.model, own.params, own.chunk)

    return see


def adapters_off(policy: Policy, batch) -> Policy:
    """Take the base: the same weights, adapters off."""
    del batch
    return policy.without_adapters()


def frozen(policy: Policy, batch) -> Policy:
    """Take the weights under params["reference"], which never train."""
    del batch
    # All of the params: an adapter that trains must not be added to the old weights.
    return dataclasses.replace(policy, params=policy.params["reference"])


def cached(policy: Policy, batch) -> Cached:
    """Take batch["reference"] [..., T]: log p of every token as a target."""
    del policy, batch
    return Cached()


def other(model):
    """Make the reference that is another model with the weights of params["reference"]."""
    return lambda policy, batch: dataclasses.replace(frozen(policy, batch), model=model)
