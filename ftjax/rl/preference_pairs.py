"""From rewards to preferences: which of a prompt's answers are compared, and which one wins.

    ranked:           best against worst of a group, second best against second worst, ...; of two
                      samples one against the other, as in online DPO (arXiv:2402.04792)
    win_probability:  sigmoid(scale * (R_own - R_other))             Bradley and Terry's model

Rows of one group (the samples of one prompt) stand together. A reward that is NaN says nothing:
its row is never of a pair, and its win is as likely as its loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Ranked(NamedTuple):
    """Pairs out of groups, [G, pairs]; rows are numbers in [0, B)."""

    chosen: jax.Array
    rejected: jax.Array
    margin: jax.Array  # by how much the chosen row's reward is larger; 0 where there is no pair
    weight: jax.Array  # 1.0, or 0.0 where there is no pair


def ranked(rewards_B, *, size: int, pairs: int = 1, min_margin: float = 0.0) -> Ranked:
    """Pair the best row of each group with its worst, the second best with the second worst, ...

    Args:
      size: rows of a group.
      pairs: pairs of a group.
      min_margin: the difference of rewards that a pair must exceed; a tie is no preference.

    Raises:
      ValueError: a group has no such number of pairs, or `min_margin` is negative.
    """
    if not 1 <= pairs <= size // 2 or min_margin < 0:
        raise ValueError(
            f"advantages: got pairs {pairs}, min_margin {min_margin}; expected 1 to {size // 2} "
            f"pairs of {size} samples, and a difference of at least 0; change one of them"
        )
    rewards_GN = rewards_B.reshape(-1, size)
    first_G1 = size * jnp.arange(len(rewards_GN))[:, None]
    take = lambda order: (first_G1 + order[:, :pairs], _at(rewards_GN, order[:, :pairs]))
    # Unknown rewards sort last, from either side.
    chosen, best = take(jnp.argsort(-rewards_GN, axis=-1, stable=True))
    rejected, worst = take(jnp.argsort(rewards_GN, axis=-1, stable=True))
    is_pair = best - worst > min_margin  # never behind the middle, nor where one is unknown
    margin = jnp.where(is_pair, best - worst, 0.0)
    return Ranked(chosen, rejected, margin, is_pair.astype(jnp.float32))


def _at(rewards_GN, order):
    return jnp.take_along_axis(rewards_GN, order, axis=-1)


def win_probability(own_B, other_B, *, scale: float = 1.0) -> jax.Array:
    """Compute the probability that the own answer is preferred; 1/2 where a reward is unknown.

    Raises:
      ValueError: `scale` is not above 0.
    """
    if not scale > 0:
        raise ValueError(f"advantages.scale: got {scale}; expected a number above 0")
    return jnp.nan_to_num(jax.nn.sigmoid(scale * (own_B - other_B)), nan=0.5)
