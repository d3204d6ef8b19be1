"""Objectives that are a weighted mean of a loss of single tokens.

    sum_t w_t * token_loss(log p_t, log Z_t, mean logit_t) / sum_t w_t

The weights come from the batch: 0 on prompts and padding, the product of the row's and the token's
weight elsewhere.
"""

from collections.abc import Callable

from ftjax.core.mean import Mean


def objective_of(token_loss: Callable) -> Callable:
    """Make the objective, with the negative log-likelihood as a metric; it has no reference."""

    def objective(policy, reference, batch, key):
        del reference
        weights = batch["weights"][..., 1:]
        found = policy.total(token_loss, batch, weights, key)
        nll = Mean.of(-found.logp, weights)
        return {"loss": Mean(found.value, nll.weight), "nll": nll}

    return objective
