"""Direct preference optimisation (arXiv:2305.18290) and its family.

    r = log pi(y|x) - log pi_ref(y|x)            loss = -log sigmoid(beta * (r_chosen - r_rejected))

`loss` names one or several of `pairs`, added with `loss_weights`; `sft` adds the negative
log-likelihood of the chosen answers (so MPO, arXiv:2411.10442, is sigmoid .8, bco_pair .2, sft 1).
`divergence` names one of `divergences`. `tail` weighs what the longer answer says beyond the
shorter one (LD-DPO); `wpo` weighs a pair by how likely the policy itself is to write it
(arXiv:2406.11827). Before the first update the policy is the reference, and the loss log 2.
"""

import inspect

import jax
import jax.numpy as jnp

from ftjax.core import config as conf
from ftjax.core.mean import Mean
from ftjax.core.typed import Finite, NonNegative, Positive, Share
from ftjax.objectives.losses import dpo_losses, f_divergence, sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(loss=("sigmoid", "ipo"), loss_weights=(0.8, 0.2), sft=0.5, tail=0.5)
SORTING = {"aot", "aot_unpaired"}  # names in `pairs` whose losses are of quantiles, not of pairs


def _names(loss) -> tuple[str, ...]:
    return (loss,) if isinstance(loss, str) else tuple(loss)


SPEC = Spec(
    data="preference", reference=True, hyper=("beta",),
    couples_rows=lambda loss="sigmoid", **_: bool(SORTING & set(_names(loss))),
)  # fmt: skip


def make(
    *, beta: Positive = 0.1, loss="sigmoid", loss_weights=None, sft: NonNegative = 0.0,
    divergence: str = "reverse_kl", alpha: float | None = None, wpo: bool = False,
    label_smoothing: Share | None = None, tau: Positive | None = None, tail: Finite | None = None,
):  # fmt: skip
    """Make the objective.

    Args:
      beta: how closely to stay by the reference; larger is closer.
      loss, loss_weights: names in `pairs` and their weights, 1 each when not given.
      sft: weight of the chosen answers' negative log-likelihood.
      divergence, alpha: a name in `divergences`, and the order of an alpha-divergence.
      label_smoothing, tau: for the losses that have them.
      tail: LD-DPO's weight of the longer answer's rest. wpo: weigh pairs by their likelihood.

    Raises ValueError for an unknown name, an option that a chosen loss has not, or a wrong value.
    """
    names = _names(loss)
    scales = (1.0,) * len(names) if loss_weights is None else tuple(loss_weights)
    _check(label_smoothing, names=names, scales=scales, sft=sft, wpo=wpo)
    options = dict(label_smoothing=label_smoothing, tau=tau)
    losses = _bind(names, dpo_losses, dict(beta=beta), options, where="objective.loss")
    where = "objective.divergence"
    (value,) = _bind((divergence,), f_divergence, {}, dict(alpha=alpha), where=where)

    def objective(policy, reference, batch, key):
        scores = policy.statistics(batch, key, squares=wpo)
        own = sequence.answers(scores.logp, batch, tail=tail)
        base = jax.lax.stop_gradient(sequence.answers(reference.logps(batch), batch, tail=tail))
        ratio_BPS = own.logp - base.logp
        found = _pairs(value(ratio_BPS), own, base, batch["examples"])
        likely = _likelihood(scores, batch) if wpo else 1.0
        terms = [Mean.of(one(found) * likely, found.weight) for one in losses]
        terms = [term.scale(scale) for term, scale in zip(terms, scales, strict=True)]
        if sft:
            terms.append(sequence.chosen_nll(scores.logp, batch).scale(sft))
        metrics = sequence.pair_metrics(beta * ratio_BPS, found.weight)
        return {"loss": tuple(terms)} | metrics | sequence.logp_metrics(own, found.weight)

    return objective


def _check(label_smoothing: float | None, *, names, scales, sft: float, wpo: bool):
    if wpo and SORTING & set(names):
        raise ValueError(
            f"objective.wpo: got True with loss {conf.listed(names)}; expected losses of single "
            "pairs: quantiles belong to no pair whose likelihood could weigh them; drop wpo"
        )
    # At 1/2 `robust` divides by zero, and above it labels would be wrong more often than right.
    if label_smoothing is not None and not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"objective.label_smoothing: got {label_smoothing}; expected 0 <= e < 0.5, the share "
            "of labels that may be wrong"
        )
    if len(scales) != len(names) or not (names or sft):
        raise ValueError(
            f"objective.loss_weights: got {scales} for the losses {names}; expected one for each"
        )


def _bind(names, module, given: dict, options: dict, *, where: str) -> list:
    """Find functions by name and give each the options that it names, less those that are None.

    Raises ValueError for an option that none of them has.
    """
    functions = [conf.function(name, module, where=where) for name in names]
    has = [inspect.signature(function).parameters for function in functions]
    options = {key: value for key, value in options.items() if value is not None}
    for key in options:
        if not any(key in own for own in has):
            raise ValueError(
                f"objective.{key}: got {options[key]}, which {conf.listed(names)} does not use; "
                f"leave it out or choose another {where.rpartition('.')[2]}"
            )
    bound = []
    for function, own in zip(functions, has, strict=True):
        keywords = {key: x for key, x in (given | options).items() if key in own}
        bound.append(lambda x, call=function, keywords=keywords: call(x, **keywords))
    return bound


def _pairs(value_BPS, own, base, weight_BS) -> dpo_losses.Pairs:
    # Where no pair is the weight is 0, but 0 times NaN would be NaN.
    tokens = jnp.maximum(own.tokens, 1)
    margin = lambda found: found.logp[:, 0] - found.logp[:, 1]
    return dpo_losses.Pairs(
        value_BPS[:, 0], value_BPS[:, 1], tokens[:, 0], tokens[:, 1], margin(own), margin(base),
        weight_BS,
    )  # fmt: skip


def _likelihood(scores, batch) -> jax.Array:
    """Weigh pairs as WPO does: the geometric mean of p(token) / sum_v p_v^2, of both answers."""
    found = sequence.answers(scores.logp - scores.log_squares, batch)
    return jax.lax.stop_gradient(jnp.exp(found.mean_logp.sum(1)))
