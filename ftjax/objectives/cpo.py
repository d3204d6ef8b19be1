"""Contrastive preference optimisation (arXiv:2401.08417): DPO without a reference.

    loss = contrast(log pi(chosen) - log pi(rejected)) + nll * (nll of the chosen answer per token)

`loss` names one of `contrast`; "squared" (IPO) takes log-probabilities per token.
"""

from ftjax.core import config as conf
from ftjax.core.mean import Mean
from ftjax.core.typed import NonNegative, Positive, Share
from ftjax.objectives.losses import margin, sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(loss="squared", beta=0.5, nll=0.5)
# Python asks whether nll is 0, so it cannot be traced.
SPEC = Spec(data="preference", hyper=("beta",))


def make(
    *, beta: Positive = 0.1, loss: str = "sigmoid", nll: NonNegative = 1.0,
    label_smoothing: Share | None = None,
):  # fmt: skip
    """Make the objective.

    Args:
      beta: scale of the margin.
      loss: sigmoid, hinge, squared, or the dotted path of one's own.
      nll: weight of the chosen answers' negative log-likelihood.
      label_smoothing: for losses that have it.

    Raises:
      ValueError: an unknown loss, or one without label smoothing that is given some.
    """
    smoothing = {} if label_smoothing is None else dict(label_smoothing=label_smoothing)
    found = conf.function(loss, margin, where="objective.loss")
    if smoothing and found is not margin.sigmoid:
        raise ValueError(
            f"objective.label_smoothing: got {label_smoothing}, which only sigmoid has"
        )

    def objective(policy, reference, batch, key):
        del reference
        logps = policy.logps(batch, key)
        own = sequence.answers(logps, batch)
        x_BPS = own.mean_logp if found is margin.squared else own.logp
        losses = found(x_BPS[:, 0] - x_BPS[:, 1], beta=beta, **smoothing)
        return with_nll(losses, logps, batch, nll=nll) | sequence.pair_metrics(
            beta * x_BPS, batch["examples"]
        )

    return objective


def with_nll(losses_BS, logps, batch, *, nll: float) -> dict:
    """Add `nll` times the chosen answers' negative log-likelihood per token."""
    chosen = sequence.chosen_nll(logps, batch)
    terms = (Mean.of(losses_BS, batch["examples"]), *([chosen.scale(nll)] if nll else []))
    return {"loss": terms, "nll": chosen}
