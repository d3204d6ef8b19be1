"""Online preference losses: two answers to a prompt, from the policy and from another one.

Log-probabilities are per token, 0 outside the answers. `own` are answers of the policy, `other`
those of the base (or of a mixture).

    XPO      DPO of the better against the worse + alpha * log p(other)     arXiv:2405.21046
    Nash-MD  beta * E[(log p / q) log p] - (P(own wins) - 1/2) log p(own)   arXiv:2312.00886
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

PAIR_LOSSES: Mapping[str, Callable] = {
    "sigmoid": lambda margin_B, beta: -jax.nn.log_sigmoid(beta * margin_B),
    "ipo": lambda margin_B, beta: jnp.square(margin_B - 1 / (2 * beta)),
}


def xpo(
    own_BT, other_BT, ref_own_BT, ref_other_BT, own_wins_B, *, alpha: float, beta: float,
    loss: str = "sigmoid",
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Compute the losses of exploratory preference optimisation, (of pairs [B], bonus [B])."""
    gain_own_B = (own_BT - ref_own_BT).sum(-1)
    gain_other_B = (other_BT - ref_other_BT).sum(-1)
    margin_B = jnp.where(own_wins_B, 1, -1) * (gain_own_B - gain_other_B)
    return PAIR_LOSSES[loss](margin_B, beta), alpha * other_BT.sum(-1)


def nash_md(own_BT, ref_own_BT, probability_B, *, beta: float) -> jax.Array:
    """Compute the loss of Nash mirror descent [B]; `probability_B` that the own answer wins."""
    score_B = (probability_B - 0.5) * own_BT.sum(-1)
    log_ratio_BT = jax.lax.stop_gradient(own_BT - ref_own_BT)
    return beta * (log_ratio_BT * own_BT).sum(-1) - score_B
