"""Distillation: the student's distribution at every target moves to the teacher's.

    loss = sum_t w_t D(student_t, teacher_t) / sum_t w_t

D is the generalised Jensen-Shannon divergence of GKD (arXiv:2306.13649): beta = 0 is the forward KL
(cover everything that the teacher might say), 1 the reverse KL (say only what it would), between
them a bounded mixture. The teacher is the reference policy: another model, a frozen copy, or the
base itself with adapters off, which holds a student to what the base knows while it learns
something else, or takes one back that has lost it.
`nll` adds the usual loss on the data, and `off_target` leaves the data's own next token out of both
distributions, so that the two do not pull against each other (arXiv:2605.29498).
"""

import functools

from ftjax.core.mean import Mean
from ftjax.core.typed import NonNegative, Positive, Share
from ftjax.objectives.losses.spec import Spec
from ftjax.ops import divergence

EXAMPLE = dict(beta=0.5, temperature=2.0, nll=0.5)
SPEC = Spec(data="tokens", reference=True, teacher=True)


def make(
    *, beta: Share = 0.0, temperature: Positive = 1.0, nll: NonNegative = 0.0,
    off_target: bool = False,
):  # fmt: skip
    """Make the objective.

    Args:
      beta: 0 forward KL, 1 reverse KL, between them generalised JSD.
      temperature: divides both models' logits.
      nll: weight of the data's negative log-likelihood.
      off_target: compare the distributions over all tokens but the target.
    """
    function = divergence.off_target if off_target else divergence.jsd
    distance = functools.partial(function, beta=beta, temperature=temperature)

    def objective(policy, reference, batch, key):
        weights = batch["weights"][..., 1:]
        found = Mean.of(
            policy.compare(reference, distance, batch, key, targets=off_target), weights
        )
        if not nll:
            return {"loss": found}
        data = Mean.of(-policy.logps(batch, key), weights)
        return {"loss": (found, data.scale(nll)), "divergence": found, "nll": data}

    return objective
