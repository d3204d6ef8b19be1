"""Odds-ratio preference optimisation (arXiv:2403.07691): fine-tuning and preference in one loss.

    loss = nll(prompt and chosen answer) - beta log sigmoid(log odds_chosen - log odds_rejected)
    odds = p / (1 - p), p = exp(mean_t log p_t)

There is no reference: the likelihood of the chosen text keeps the model a language model.
"""

import jax
import jax.numpy as jnp

from ftjax.core.mean import Mean
from ftjax.core.typed import NonNegative
from ftjax.objectives.losses import sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(beta=0.5)
HIGHEST = -1e-7  # of a mean log-probability: at 0, p = 1, the odds are infinite
SPEC = Spec(data="preference", hyper=("beta",))


def make(*, beta: NonNegative = 0.1):
    """Make the objective; `beta` is the weight of the odds ratio."""

    def objective(policy, reference, batch, key):
        del reference
        logps, weight_BS = policy.logps(batch, key), batch["examples"]
        mean_BPS = sequence.answers(logps, batch).mean_logp
        # What is not there has log p = 0, whose odds are infinite.
        safe = jnp.where(weight_BS[:, None] > 0, mean_BPS, -1.0)
        odds = log_odds_ratio(safe[:, 0], safe[:, 1])
        # `inside` and not the targets: the likelihood is that of prompt and answer.
        nll = sequence.nll(logps[:, 0], sequence.inside(batch)[:, 0])
        preference = Mean.of(-beta * jax.nn.log_sigmoid(odds), weight_BS)
        metrics = sequence.pair_metrics(beta * mean_BPS, weight_BS)
        found = {"nll": nll, "log_odds": Mean.of(odds, weight_BS)}
        return {"loss": (nll, preference)} | found | metrics

    return objective


def log_odds_ratio(chosen, rejected) -> jax.Array:
    """Compute log odds(chosen) - log odds(rejected) from mean log-probabilities."""

    def log_odds(logp):
        logp = jnp.minimum(logp, HIGHEST)
        return logp - jnp.log(-jnp.expm1(logp))

    return log_odds(chosen) - log_odds(rejected)
