"""The geometric mixture of two models as one handle: what `generate` needs, and no more.

    p(v | x) ~ own(v | x)^(1 - share) * other(v | x)^share        at every token (arXiv:2312.00886)

Both read the same tokens; the states and the cache of the mixture are those of the two, and its
logits the mean of theirs under the two weights. Its log-probabilities are therefore the mixture's,
not those of one of the models.

    mixture = make(model, other, share=0.5)
    generate.make(mixture, ...)(join(params, other_params), prompts_QT, lengths_Q, key)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

NAMES = ("own", "other")


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Two handles of one vocabulary."""

    own: Any
    other: Any
    share: float  # of the other one

    def max_length(self, adapters: Mapping | None = None) -> int:
        """Return the tokens of an example that both take."""
        return min(vars(self)[name].max_length(_of(adapters, name)) for name in NAMES)

    def init_cache(self, *, batch: int, length: int, dtype=None) -> dict:
        """Make both caches."""
        return {n: vars(self)[n].init_cache(batch=batch, length=length, dtype=dtype) for n in NAMES}

    def cast(self, params) -> dict:
        """Cast both to the types that they compute in."""
        return {name: vars(self)[name].cast(params[name]) for name in NAMES}

    def hidden(self, params, tokens_BT, *, adapters, cache, **options):
        """Compute the states of both models side by side, [B, T, D of one + D of the other]."""
        found = {
            name: vars(self)[name].hidden(
                params[name], tokens_BT, adapters=_of(adapters, name), cache=cache[name], **options
            )
            for name in NAMES
        }
        # Side by side, for whoever samples hands one array from `hidden` to `logits`.
        x = jnp.concatenate([found[name][0] for name in NAMES], axis=-1)
        return x, {name: found[name][1] for name in NAMES}

    def logits(self, params, x, *, adapters=None):
        """Mix the logits of both models' states [..., D of one + D of the other]."""
        D = self.own.config.dim
        own = self.own.logits(params["own"], x[..., :D], adapters=_of(adapters, "own"))
        other = self.other.logits(params["other"], x[..., D:], adapters=_of(adapters, "other"))
        # Not normalised: a softmax does not see what all logits of a token share.
        return (1 - self.share) * own + self.share * other


def make(own, other, *, share: float) -> Mixture:
    """Mix two handles.

    Raises:
      ValueError: their vocabularies differ, or the share is outside [0, 1].
    """
    sizes = own.config.vocab_size, other.config.vocab_size
    if sizes[0] != sizes[1] or not 0 <= share <= 1:
        raise ValueError(
            f"mixture: got {sizes[0]} and {sizes[1]} tokens, share {share}; expected one "
            "vocabulary and a share between 0 and 1"
        )
    return Mixture(own, other, share)


def join(own: Mapping, other: Mapping) -> dict:
    """Join the params of both, {"model", "adapters"}, into those of the mixture."""
    parts = dict(zip(NAMES, (own, other), strict=True))
    return {
        "model": {name: part["model"] for name, part in parts.items()},
        "adapters": {name: part.get("adapters") for name, part in parts.items()},
    }


def _of(adapters: Mapping | None, name: str):
    return None if adapters is None else adapters[name]
