"""Mixture of experts: which experts see a token, how they are kept busy, and two ways to get there.

    p = softmax(x W)                     over all experts E, in float32
    y = sum over the top k of g_e expert_e(x)      g = p of the k, divided by their sum or not

(Mixtral, arXiv:2401.04088). The router learns to spread tokens by the loss of the Switch
Transformer (arXiv:2101.03961), E * sum_e f_e P_e, where f_e is how many experts' seats per token e
takes and P_e is its mean probability; it is k when all are equal.

*Dropless* dispatch is exact: `ops.grouped` sorts the tokens by expert. *Capacity* dispatch gives
every expert the same number of seats in every row of the batch, so that all shapes are static and
the compiler shards them like any einsum; a token whose expert is full skips it, and is counted.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ftjax.core.mean import Mean
from ftjax.ops import products

# Exact with ragged groups, or fixed seats, which shard over experts without a sort.
DISPATCH = ("dropless", "capacity")


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """How tokens get to experts; see `dispatch`."""

    kind: str
    factor: float | None = None


DROPLESS = Dispatch("dropless")


def dispatch(kind: str, *, factor: float) -> Dispatch:
    """Choose "dropless", or "capacity" with factor * T * k / E seats in a row of T tokens.

    Raises:
      ValueError: another kind, or a factor that is not positive.
    """
    if kind not in DISPATCH:
        raise ValueError(f"model.dispatch: got {kind!r}; expected one of {', '.join(DISPATCH)}")
    if factor <= 0:
        raise ValueError(f"model.capacity_factor: got {factor}; expected more than 0")
    return DROPLESS if kind == "dropless" else Dispatch(kind, factor)


class Choice(NamedTuple):
    """The experts of every token and their weights: [B,T,k], the likeliest first."""

    expert: jax.Array
    gate: jax.Array


def route(logits_BTE: jax.Array, *, top: int, normalise: bool) -> Choice:
    """Choose the `top` likeliest experts of every token; float32.

    normalise: divide their probabilities by their sum.
    """
    # Float32: in bfloat16 near ties change which experts a token gets.
    probability = jax.nn.softmax(logits_BTE.astype(jnp.float32))
    gate, expert = jax.lax.top_k(probability, top)
    if normalise:
        gate = gate / gate.sum(-1, keepdims=True)
    return Choice(expert, gate)


def route_sigmoid(
    logits_BTE: jax.Array, correction_E: jax.Array, *, top: int, normalise: bool, scale: float,
    groups: int = 1, top_groups: int = 1,
) -> Choice:  # fmt: skip
    """Choose experts by sigmoid(logit) + correction; a gate is the bare sigmoid (arXiv:2412.19437).

    With `groups`, tokens choose among the experts of their `top_groups` best groups alone; a group
    is as good as its two best experts together. normalise: divide the gates by their sum. `scale`
    multiplies them then.
    """
    score = jax.nn.sigmoid(logits_BTE.astype(jnp.float32))
    # A correction steers the choice and never the gate; its own update is no gradient's.
    wish = score + jax.lax.stop_gradient(correction_E.astype(jnp.float32))
    if groups > 1:
        by_group = wish.reshape(*wish.shape[:-1], groups, -1)
        worth = jax.lax.top_k(by_group, 2)[0].sum(-1)
        best = jax.lax.top_k(worth, top_groups)[1]
        chosen = jax.nn.one_hot(best, groups).sum(-2)[..., None] > 0
        # Zero and not minus infinity, as in the reference.
        wish = jnp.where(chosen, by_group, 0.0).reshape(wish.shape)
    expert = jax.lax.top_k(wish, top)[1]
    gate = jnp.take_along_axis(score, expert, -1)
    if normalise:
        # The reference's constant: sigmoids of all chosen experts may underflow to 0.
        gate = gate / (gate.sum(-1, keepdims=True) + 1e-20)
    return Choice(expert, gate * scale)


class Load(NamedTuple):
    """Sums over tokens that are not padding, float32; layers, rows and devices add."""

    seats_E: jax.Array  # how many tokens chose each expert
    probability_E: jax.Array  # the router's probabilities
    dropped: jax.Array  # how many choices found no seat


def load(logits_BTE, choice: Choice, segments_BT, *, dropped=0.0) -> Load:
    """Count the load of one layer's experts."""
    # Padding is routed too, and would count as load.
    real_BT = (segments_BT > 0).astype(jnp.float32)
    experts = logits_BTE.shape[-1]
    seats_BTE = jax.nn.one_hot(choice.expert, experts).sum(-2)
    probability_BTE = jax.nn.softmax(logits_BTE.astype(jnp.float32))
    over_tokens = lambda x_BTE: products.einsum("BTE,BT->E", x_BTE, real_BT)
    return Load(
        # Counts have no gradient; the loss reaches the router by its probabilities alone.
        jax.lax.stop_gradient(over_tokens(seats_BTE)), over_tokens(probability_BTE),
        jnp.asarray(dropped, jnp.float32),
    )  # fmt: skip


def balance(total: Load, tokens: jax.Array) -> Mean:
    """Compute the load-balancing loss E * sum_e f_e P_e.

    It is a product of two means, so the mean over microbatches is not that of the whole batch.

    Args:
      total: the load, added over layers. tokens: how many it is of, each once a layer.
    """
    # A batch of padding alone has no load, and 0 / 0 would make its loss NaN.
    count = jnp.maximum(tokens, 1).astype(jnp.float32)
    f_E, p_E = total.seats_E / count, total.probability_E / count
    return Mean(f_E.size * (f_E * p_E).sum() * tokens, tokens.astype(jnp.float32))


def drop_rate(total: Load) -> Mean:
    """Compute which part of the choices found no seat."""
    return Mean(total.dropped, total.seats_E.sum())


# -- capacity --------------------------------------------------------------------------------------


def capacity(tokens: int, *, experts: int, top: int, factor: float) -> int:
    """Count the seats of one expert in a row of `tokens`: at least 1, at most one a token."""
    return min(tokens, max(1, math.ceil(factor * tokens * top / experts)))


class Seats(NamedTuple):
    """Where tokens sit, [B,T,E,S] for S seats: 1 or 0, and the same times the gate."""

    dispatch: jax.Array
    combine: jax.Array
    dropped: jax.Array


def seat(choice: Choice, segments_BT, *, experts: int, seats: int) -> Seats:
    """Seat tokens in the order of their row, so that no later token takes an earlier one's seat.

    Padding takes no seat.
    """
    real_BTk = jnp.broadcast_to((segments_BT > 0)[..., None], choice.expert.shape)
    wanted = jax.nn.one_hot(choice.expert, experts, dtype=jnp.int32) * real_BTk[..., None]
    taken = jnp.cumsum(wanted.sum(2), 1) - wanted.sum(2)  # before this token; its k experts differ
    place_BTk = jnp.take_along_axis(taken, choice.expert, -1)
    seated = real_BTk & (place_BTk < seats)
    # one_hot of what is out of range is zero: no seat.
    at_BTkS = jax.nn.one_hot(jnp.where(seated, place_BTk, seats), seats)
    at = wanted.astype(jnp.float32)[..., None] * at_BTkS[..., None, :]
    combine = (at * choice.gate[..., None, None]).sum(2)
    return Seats(at.sum(2), combine, (real_BTk & ~seated).sum().astype(jnp.float32))


def to_seats(x_BTD: jax.Array, seats: Seats) -> jax.Array:
    """Bring tokens to their seats: [E,B,S,D], zero where nobody sits."""
    # Ones and zeros are exact in every type, so the cast loses nothing.
    return products.einsum("BTES,BTD->EBSD", seats.dispatch.astype(x_BTD.dtype), x_BTD)


def from_seats(y_EBSD: jax.Array, seats: Seats) -> jax.Array:
    """Bring the experts' answers back, weighted and summed: [B,T,D]."""
    return products.einsum("BTES,EBSD->BTD", seats.combine.astype(y_EBSD.dtype), y_EBSD)
