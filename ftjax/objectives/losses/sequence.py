"""Answers as wholes: log-probabilities by sequence, out of packed rows of tokens.

A batch of answers has the arrays of any other, with an axis P of answers that belong together:

    tokens, weights, segments, positions   [B,P,T]    P = 0 chosen, 1 rejected; or ranks
    examples                               [B,S]      weight of example s of row b, 0 where none is

Row b holds up to S examples: answer p of example s is segment s + 1 of [b, p], so an example is
never parted, whatever is cut along B. Sums over segments give arrays [B,P,S].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ftjax.core.mean import Mean


class Answers(NamedTuple):
    """Of every answer [B,P,S]: the sum of its targets' log-probabilities, and their number."""

    logp: jax.Array
    tokens: jax.Array

    @property
    def mean_logp(self) -> jax.Array:
        """Log-probability per token; 0 for an answer that is not there."""
        return self.logp / jnp.maximum(self.tokens, 1)


def targets(batch) -> jax.Array:
    """Return which of `tokens[..., 1:]` are targets, as 0.0 and 1.0."""
    # Whether, not how much: the log-probability of an answer is a plain sum.
    return (batch["weights"][..., 1:] > 0).astype(jnp.float32)


def inside(batch) -> jax.Array:
    """Return which of `tokens[..., 1:]` have a predecessor in their segment."""
    segments = batch["segments"]
    same = (segments[..., 1:] == segments[..., :-1]) & (segments[..., 1:] > 0)
    return same.astype(jnp.float32)


def _is_in(batch, segments) -> jax.Array:
    count = batch["examples"].shape[-1]
    # Segments count from 1; 0 is padding.
    return segments[..., None] == jnp.arange(1, count + 1)


def sums(values, batch) -> jax.Array:
    """Add the values of the targets `tokens[..., 1:]` by segment: [..., T-1] -> [..., S]."""
    return jnp.where(_is_in(batch, batch["segments"][..., 1:]), values[..., None], 0).sum(-2)


def at_ends(values, batch) -> jax.Array:
    """Take the value at the last token of every segment: [..., T] -> [..., S]; 0 where none is."""
    segments = batch["segments"]
    # Behind the last token is 0, no segment, so that a full row ends too.
    after = jnp.pad(segments[..., 1:], [(0, 0)] * (segments.ndim - 1) + [(0, 1)])
    is_last = (_is_in(batch, segments)) & (segments != after)[..., None]
    return jnp.where(is_last, values[..., None], 0).sum(-2)


def answers(logps, batch, *, tail: float | None = None) -> Answers:
    """Sum the log-probabilities [..., T-1] of the targets by answer.

    tail: the weight of what an answer says beyond the length of the shortest one of its example
    (LD-DPO, arXiv:2409.06411); None = 1.
    """
    mask = targets(batch)
    tokens = sums(mask, batch)
    if tail is not None:
        shortest = jnp.broadcast_to(tokens.min(-2, keepdims=True), tokens.shape)
        is_tail = _ordinal(mask, tokens, batch) > spread(shortest, batch)
        logps = logps * jnp.where(is_tail, tail, 1.0)
    # where and not a product: log p may be -inf off the mask, and 0 times that is NaN.
    return Answers(sums(jnp.where(mask > 0, logps, 0), batch), tokens)


def spread(values, batch):
    """Return for every target the value of its segment: [..., S] -> [..., T-1]."""
    return jnp.where(_is_in(batch, batch["segments"][..., 1:]), values[..., None, :], 0).sum(-1)


def _ordinal(mask, tokens, batch):
    """Number the targets of each segment from 1."""
    before = jnp.cumsum(tokens, -1) - tokens
    return jnp.cumsum(mask, -1) - spread(before, batch)


def take(batch, p: int) -> dict:
    """Take answer `p` of every example: arrays [B,T] where there were [B,P,T]."""
    # What is [B,S], such as labels, is of examples and has no axis P.
    return {name: leaf[:, p] if leaf.ndim == 3 else leaf for name, leaf in batch.items()}


def nll(logps, mask) -> Mean:
    """Average -log p over the tokens of a mask."""
    return Mean.of(jnp.where(mask > 0, -logps, 0), mask)


def chosen_nll(logps, batch) -> Mean:
    """Average -log p over the targets of the chosen answers, from log-probabilities [B,P,T-1]."""
    return nll(logps[:, 0], targets(batch)[:, 0])


def logp_metrics(found: Answers, weight_BS) -> dict[str, Mean]:
    """Report the log-probabilities of chosen and rejected answers, which may both fall."""
    sides = enumerate(("chosen", "rejected"))
    return {f"logp/{name}": Mean.of(found.logp[:, p], weight_BS) for p, name in sides}


def pair_metrics(reward_BPS, weight_BS) -> dict[str, Mean]:
    """Report rewards of chosen and rejected answers, their margin, and how often it is right."""
    chosen, rejected = reward_BPS[:, 0], reward_BPS[:, 1]
    found = {
        "chosen": chosen,
        "rejected": rejected,
        "margin": chosen - rejected,
        "accuracy": chosen > rejected,
    }
    return {f"reward/{name}": Mean.of(value, weight_BS) for name, value in found.items()}
