"""From rewards to advantages: how much better a token was than what was to be expected.

    group:          A_i = (R_i - mean of its group) / (std of its group + 1e-4)     arXiv:2402.03300
    leave one out:  A_i = R_i - mean of the others of its group                     arXiv:2402.14740
    GAE:            A_t = sum_k (gamma lambda)^k (r_t+k + gamma V_t+k+1 - V_t+k)    arXiv:1506.02438

Rows of one group (the samples of one prompt) stand together. Standard deviations are unbiased.
A reward that is NaN says nothing: sums and statistics leave it out, and a row without any reward
has the advantage 0. So has every row of a group whose known rewards are all equal, or one alone.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

# As in TRL; rewards that hardly differ would have huge advantages without it.
EPSILON = 1e-4


class Experience(NamedTuple):
    """Sampled answers, for those who turn rewards into advantages; places are targets [B, T-1]."""

    rewards_BF: jax.Array  # of F functions
    weights_F: tuple[float, ...]
    samples: int  # rows of a group
    mask_BT: jax.Array  # 1 on sampled tokens
    logps_BT: jax.Array  # of the sampler
    ref_logps_BT: jax.Array  # of the base
    values_BT: jax.Array | None  # of the value head, where there is one
    kl_scale: float  # what the controller multiplies the weight of the divergence by


def total(rewards_BF, weights_F) -> jax.Array:
    """Add the rewards of F functions under their weights, [B]; NaN where all of them are."""
    # The nansum of nothing but NaN is 0, which would pass for a reward.
    known = ~jnp.isnan(rewards_BF).all(-1)
    return jnp.where(known, jnp.nansum(rewards_BF * jnp.asarray(weights_F), axis=-1), jnp.nan)


def of_groups(rewards_B, *, size: int, scale: str = "group") -> jax.Array:
    """Subtract the mean of each group, and divide by a standard deviation, [B].

    scale: "group" (its own deviation), "batch" (that of all rewards) or "none" (1).
    """
    rewards_GN = _grouped(rewards_B, size)
    centred = _centred(rewards_GN, axis=-1)
    return jnp.nan_to_num(centred / SCALES[scale](rewards_GN)).reshape(-1)


def _centred(rewards, *, axis: int | None):
    """Subtract the mean of what is known; exactly 0 where all of that is equal.

    The rounded mean of equal numbers may be another one: of eight rewards of 0.1 it is off by
    7e-9, which a division by EPSILON makes a signal, and Adam full steps.
    """
    centred = rewards - jnp.nanmean(rewards, axis, keepdims=True)
    return jnp.where(_is_flat(rewards, axis=axis), 0.0, centred)


def _is_flat(values, *, axis: int | None):
    return jnp.nanmax(values, axis, keepdims=True) == jnp.nanmin(values, axis, keepdims=True)


SCALES: Mapping[str, Callable] = {
    "group": lambda rewards_GN: jnp.nanstd(rewards_GN, -1, ddof=1, keepdims=True) + EPSILON,
    "batch": lambda rewards_GN: jnp.nanstd(rewards_GN, ddof=1) + EPSILON,
    "none": lambda rewards_GN: jnp.float32(1),
}


def decoupled(rewards_BF, weights_F, *, size: int) -> jax.Array:
    """Normalise each reward in its group, add, normalise over the batch: GDPO (arXiv:2601.05242).

    A reward of a small range then counts as much as one of a large range.
    """
    rewards_GNF = rewards_BF.reshape(-1, size, rewards_BF.shape[-1])
    deviation = jnp.nanstd(rewards_GNF, axis=1, ddof=1, keepdims=True)
    each = jnp.nan_to_num(_centred(rewards_GNF, axis=1) / (deviation + EPSILON))
    found_B = normalised(total(each.reshape(rewards_BF.shape), weights_F))
    # The batch's mean is 0 but for rounding, which is no signal to a group without one.
    is_flat_G = (each == 0).all((1, 2))
    return jnp.where(jnp.repeat(is_flat_G, size), 0.0, found_B)


def leave_one_out(rewards_B, *, size: int) -> jax.Array:
    """Subtract from each reward the mean of the others of its group, [B]."""
    rewards_GN = _grouped(rewards_B, size)
    count = (~jnp.isnan(rewards_GN)).sum(-1, keepdims=True)
    others = (jnp.nansum(rewards_GN, -1, keepdims=True) - rewards_GN) / jnp.maximum(count - 1, 1)
    found_GN = jnp.where(_is_flat(rewards_GN, axis=-1), 0.0, rewards_GN - others)
    return jnp.nan_to_num(found_GN).reshape(-1)


def normalised(values_B) -> jax.Array:
    """Subtract the mean of all and divide by their standard deviation, [B]."""
    return _centred(values_B, axis=None) / (values_B.std(ddof=1) + EPSILON)


def whitened(values_BT, mask_BT, *, centre: bool = True) -> jax.Array:
    """Normalise the unmasked values to mean 0 (unless `centre` is off) and variance 1.

    Equal values become the same value exactly, 0 when centred.
    """
    mean = masked_mean(values_BT, mask_BT)
    known_BT = jnp.where(mask_BT > 0, values_BT, jnp.nan)
    centred_BT = jnp.where(_is_flat(known_BT, axis=None), 0.0, values_BT - mean)
    # 1e-8 within the root, as TRL whitens.
    scaled = centred_BT * jax.lax.rsqrt(masked_variance(values_BT, mask_BT) + 1e-8)
    return scaled if centre else scaled + mean


def masked_mean(values, mask) -> jax.Array:
    """Average what is not masked."""
    return (values * mask).sum() / jnp.maximum(mask.sum(), 1)


def masked_variance(values, mask) -> jax.Array:
    """Compute the unbiased variance of what is not masked."""
    count = mask.sum()
    biased = masked_mean(jnp.square(values - masked_mean(values, mask)), mask)
    return biased * count / jnp.maximum(count - 1, 1)


def gae(rewards_BT, values_BT, *, discount: float, decay: float) -> tuple[jax.Array, jax.Array]:
    """Compute generalised advantages and the returns that values should learn, both [B, T].

    Rewards and values after the end of a row are 0. `discount` is gamma, `decay` lambda.
    """
    later_BT = jnp.pad(values_BT[:, 1:], ((0, 0), (0, 1)))
    errors_BT = rewards_BT + discount * later_BT - values_BT
    advantages_BT = discounted(errors_BT, discount=discount * decay)
    return advantages_BT, advantages_BT + values_BT


def discounted(rewards_BT, *, discount: float) -> jax.Array:
    """Compute sum_k discount^k r_{t+k} of every place, [B, T]."""

    def step(later_B, reward_B):
        now_B = reward_B + discount * later_B
        return now_B, now_B

    start = jnp.zeros(rewards_BT.shape[0], rewards_BT.dtype)
    return jax.lax.scan(step, start, rewards_BT.T, reverse=True)[1].T


def at_last(rewards_B, mask_BT) -> jax.Array:
    """Put a reward of a whole row on its last unmasked place, [B, T]."""
    T = mask_BT.shape[1]
    # argmax is 0 in a row without targets, whose reward the mask keeps out.
    last_B = T - 1 - jnp.argmax(mask_BT[:, ::-1] > 0, axis=1)
    return jnp.where((jnp.arange(T) == last_B[:, None]) & (mask_BT > 0), rewards_B[:, None], 0.0)


def _grouped(rewards_B, size: int):
    if size < 2 or rewards_B.shape[0] % size:
        raise ValueError(
            f"advantages: got groups of {size} for {rewards_B.shape[0]} rows; expected at least 2 "
            "samples a prompt, all of them in the batch; change rollout.samples"
        )
    return rewards_B.reshape(-1, size)
