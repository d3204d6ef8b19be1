"""Exploratory preference optimisation (arXiv:2405.21046): DPO on samples, with a bonus for the new.

    loss = -log sigmoid(beta * (r_winner - r_loser)) + alpha * log pi(other)
    r = log pi(y|x) - log pi_ref(y|x)

Of the two answers to a prompt one is the policy's own (P = 0), the `other` the reference's (P = 1).
The bonus moves the policy away from what the reference would say anyway, so that it explores.
`probability` [B,S] of the batch, that the own answer wins, says which one is the winner; at 1/2
there is none, and the bonus stays. `loss` names one of `contrast`; "squared" is IPO's.
"""

import jax
import jax.numpy as jnp

from ftjax.core import config as conf
from ftjax.core.mean import Mean
from ftjax.core.typed import NonNegative, Positive
from ftjax.objectives.losses import margin as contrast
from ftjax.objectives.losses import sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(beta=0.5, alpha=0.1, loss="squared")
SPEC = Spec(data="duel", reference=True, hyper=("beta", "alpha"))


def make(*, beta: Positive = 0.1, alpha: NonNegative = 1e-5, loss: str = "sigmoid"):
    """Make the objective.

    Args:
      beta: how closely to stay by the reference.
      alpha: weight of the bonus.
      loss: of the margin, a function of `contrast`.

    Raises:
      ValueError: there is no such loss.
    """
    of_margin = conf.function(loss, contrast, where="objective.loss")

    def objective(policy, reference, batch, key):
        own = sequence.answers(policy.logps(batch, key), batch)
        base = jax.lax.stop_gradient(sequence.answers(reference.logps(batch), batch))
        ratio_BPS, weight_BS = own.logp - base.logp, batch["examples"]
        # 0 at 1/2, which leaves the pair out below.
        side_BS = jnp.sign(batch["probability"] - 0.5)
        decided_BS = weight_BS * jnp.abs(side_BS)
        pairs = Mean.of(of_margin(margin(ratio_BPS, side_BS), beta=beta), decided_BS)
        bonus = Mean.of(own.logp[:, 1], weight_BS)
        winner_first = jnp.where(side_BS[:, None] < 0, ratio_BPS[:, ::-1], ratio_BPS)
        metrics = sequence.pair_metrics(beta * winner_first, decided_BS)
        sides = {"logp/own": Mean.of(own.logp[:, 0], weight_BS), "logp/other": bonus}
        return {"loss": (pairs, bonus.scale(alpha)), "loss/pairs": pairs} | metrics | sides

    return objective


def margin(ratio_BPS, side_BS) -> jax.Array:
    """Subtract the loser's log-ratio from the winner's; `side` is 1 where the own answer wins."""
    return side_BS * (ratio_BPS[:, 0] - ratio_BPS[:, 1])
