"""A reward model (arXiv:2203.02155): a scalar head that scores the chosen answer higher.

    loss = -log sigmoid(s_chosen - s_rejected - margin) + centre (s_chosen + s_rejected)^2

Bradley and Terry's model of preferences. A row's `margin` asks for more where people agreed; the
centring term (arXiv:2312.09244) fixes the scores' level, which pairs alone leave open. The score of
an answer is read at its last token: s = <head/reward, x>.
"""

import jax.numpy as jnp

from ftjax.core.mean import Mean
from ftjax.core.typed import NonNegative
from ftjax.objectives.losses import margin as contrast
from ftjax.objectives.losses import sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(centre=0.1)
SPEC = Spec(data="preference", heads=("reward",), hyper=("centre",))


def make(*, centre: NonNegative = 0.0):
    """Make the objective; `centre` is the weight of the centring term, such as 0.01."""

    def objective(policy, reference, batch, key):
        del reference
        scores_BPS = sequence.at_ends(policy.scores(batch, key), batch)
        chosen, rejected = scores_BPS[:, 0], scores_BPS[:, 1]
        loss = losses(chosen, rejected, batch["margin"], centre=centre)
        found = sequence.pair_metrics(scores_BPS, batch["examples"])
        return {"loss": Mean.of(loss, batch["examples"])} | found

    return objective


def losses(chosen, rejected, margin, *, centre: float):
    """Score pairs; `margin` is what the difference must exceed."""
    # beta 1: what the head learns has a scale of its own.
    return contrast.sigmoid(chosen - rejected - margin, beta=1.0) + centre * jnp.square(
        chosen + rejected
    )
