"""SimPO (arXiv:2405.14734) and AlphaPO (arXiv:2501.03884): per-token rewards, no reference.

    loss = -log sigmoid(beta (x_chosen - x_rejected) - gamma)
    x = mean_t log p_t                          SimPO (alpha = 0)
    x = (1 - p^-alpha) / alpha                  AlphaPO, with p = exp(mean_t log p_t)

The margin gamma is what the chosen answer must be better by; AlphaPO bends the reward so that
likely answers are pushed less.
"""

import jax
import jax.numpy as jnp

from ftjax.core.typed import NonNegative, Positive, Share
from ftjax.objectives import cpo
from ftjax.objectives.losses import margin as contrast
from ftjax.objectives.losses import sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(beta=2.0, gamma=0.5, alpha=0.25, nll=0.5)
SPEC = Spec(data="preference", hyper=("beta", "gamma"))


def make(
    *, beta: Positive = 2.0, gamma: NonNegative = 1.0, alpha: NonNegative = 0.0,
    nll: NonNegative = 0.0, label_smoothing: Share = 0.0,
):  # fmt: skip
    """Make the objective.

    Args:
      beta: scale of the reward.
      gamma: the margin asked for, in units of the scaled reward.
      alpha: of AlphaPO; 0 = SimPO.
      nll: weight of the chosen answers' negative log-likelihood (CPO-SimPO).
      label_smoothing: the share of labels that may be wrong.
    """

    def objective(policy, reference, batch, key):
        del reference
        logps = policy.logps(batch, key)
        x_BPS = value(sequence.answers(logps, batch).mean_logp, alpha=alpha)
        # gamma is in units of the scaled reward, and the loss multiplies by beta.
        margin = x_BPS[:, 0] - x_BPS[:, 1] - gamma / beta
        losses = contrast.sigmoid(margin, beta=beta, label_smoothing=label_smoothing)
        metrics = sequence.pair_metrics(beta * x_BPS, batch["examples"])
        return cpo.with_nll(losses, logps, batch, nll=nll) | metrics

    return objective


def value(mean_logp, *, alpha: float) -> jax.Array:
    """Bend a mean log-probability; alpha = 0 leaves it."""
    # expm1: for a small alpha 1 - p^-alpha would lose its digits.
    return -jnp.expm1(-alpha * mean_logp) / alpha if alpha else mean_logp
