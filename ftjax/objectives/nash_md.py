"""Nash mirror descent (arXiv:2312.00886): become what wins against a softer version of oneself.

    loss = sum_t [beta * (log pi_t - log pi_ref_t)' log pi_t - (P(own wins) - 1/2) log pi_t]

over the tokens of the policy's own answer (P = 0), with ' without gradient: a policy gradient whose
reward is the probability of winning, and one of the divergence from the reference. The other answer
(P = 1) comes from the geometric mixture of policy and reference, pi^(1 - m) pi_ref^m, normalised at
every token. `probability` [B,S] of the batch is that of the own answer winning.
"""

import jax

from ftjax.core.mean import Mean
from ftjax.core.typed import NonNegative
from ftjax.objectives.losses import sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(beta=0.5)
# rival: half policy, half reference, as TRL mixes them by default.
SPEC = Spec(data="duel", reference=True, rival=0.5, hyper=("beta",))


def make(*, beta: NonNegative = 0.1):
    """Make the objective; `beta` is the weight of the divergence."""

    def objective(policy, reference, batch, key):
        rows, weight_BS = sequence.take(batch, 0), batch["examples"]
        own_BT = policy.logps(rows, key)
        ref_BT = jax.lax.stop_gradient(reference.logps(rows))
        score_BT = sequence.spread(batch["probability"] - 0.5, rows)
        losses_BT = token_losses(own_BT, ref_BT, score_BT, beta=beta)
        of_rows = lambda values_BT: Mean.of(sequence.sums(values_BT, rows), weight_BS)
        mask_BT = sequence.targets(rows)
        return {
            "loss": of_rows(losses_BT * mask_BT),
            "kl": of_rows((own_BT - ref_BT) * mask_BT),
            "logp/own": of_rows(own_BT * mask_BT),
            "win/probability": Mean.of(batch["probability"], weight_BS),
        }

    return objective


def token_losses(own_BT, ref_BT, score_BT, *, beta: float) -> jax.Array:
    """Compute the loss of every token of own answers, whose score is P(own wins) - 1/2."""
    log_ratio_BT = jax.lax.stop_gradient(own_BT - ref_BT)
    return (beta * log_ratio_BT - score_BT) * own_BT
