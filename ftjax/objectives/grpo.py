"""Group-relative policy optimisation and its variants: policy gradients without a value function.

    loss = average of surrogate(ratio to the sampler, advantage) + kl_weight * KL(policy || base)

(arXiv:2402.03300). `loss` names a surrogate, how it is averaged, and whose ratio it looks at:

    grpo     clip, mean of the rows' means        cispo   cispo, mean over tokens
    bnpo     clip, mean over all tokens           sapo    sapo, mean of the rows' means
    dapo     the same (arXiv:2503.14476)          vespo   vespo, mean over tokens
    dr_grpo  clip, sum / (rows * limit)           luspo   clip of rows, mean of the rows' sums
    gspo     clip of rows, mean of rows           gmpo    geometric mean of a row, mean of rows

Averages are over the whole batch, however it is cut (see `train.step`), so bnpo and dapo are one.
The batch carries `advantages` [B] or [B, T-1], `old_logps` [B, T-1] (the sampler's; without them
the policy itself, so that the ratio is 1) and, for the KL term, `ref_logps` [B, T-1]; without these
the base is asked. Advantages of a group are `advantages.of_groups` of its rewards.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax.lax import stop_gradient

from ftjax.core import config as conf
from ftjax.core.mean import Mean
from ftjax.core.typed import Count, NonNegative, Positive, Share
from ftjax.objectives.losses import advantages, policy_gradient
from ftjax.objectives.losses import kl as estimators
from ftjax.objectives.losses.policy_gradient import Terms
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(loss="grpo", low=0.2, high=0.28, kl_weight=0.1, entropy_weight=0.01)
SPEC = Spec(
    data="experience", ratio=True,
    # The highest share of the entropies is found among the tokens of a microbatch.
    couples_rows=lambda entropy_share=1.0, **_: entropy_share < 1,
)  # fmt: skip


class Variant(NamedTuple):
    """A named loss: its surrogate, its average, and the level of its ratios."""

    surrogate: Callable
    average: Callable
    importance: str = "token"


def of_sequences(values_BT, mask_BT, limit) -> Mean:
    """Average rows, each of which is the mean of its tokens."""
    del limit
    return Mean(policy_gradient.row_mean(values_BT, mask_BT).sum(), _rows(mask_BT))


def of_tokens(values_BT, mask_BT, limit) -> Mean:
    """Average tokens."""
    del limit
    return Mean((values_BT * mask_BT).sum(), mask_BT.sum())


def of_limit(values_BT, mask_BT, limit) -> Mean:
    """Average rows, each of which is its sum over the longest length: no bias by length."""
    return Mean((values_BT * mask_BT).sum(), _rows(mask_BT) * limit)


def of_sums(values_BT, mask_BT, limit) -> Mean:
    """Average the sums of rows."""
    del limit
    return Mean((values_BT * mask_BT).sum(), _rows(mask_BT))


def _rows(mask_BT):
    # Rows that fill a batch have no tokens and must not lower the average.
    return (mask_BT.sum(-1) > 0).astype(jnp.float32).sum()


VARIANTS: Mapping[str, Variant] = {
    "grpo": Variant(policy_gradient.clip, of_sequences),
    "bnpo": Variant(policy_gradient.clip, of_tokens),
    "dapo": Variant(policy_gradient.clip, of_tokens),
    "dr_grpo": Variant(policy_gradient.clip, of_limit),
    "luspo": Variant(policy_gradient.clip, of_sums, "sequence"),
    "gspo": Variant(policy_gradient.clip, of_sequences, "sequence"),
    "cispo": Variant(policy_gradient.cispo, of_tokens),
    "sapo": Variant(policy_gradient.sapo, of_sequences),
    "vespo": Variant(policy_gradient.vespo, of_tokens),
    "gmpo": Variant(policy_gradient.gmpo, of_sequences),
}


def make(
    *, loss: str = "dapo", importance: str | None = None, limit: Count | None = None,
    kl_weight: NonNegative = 0.0, kl: str = "k3", kl_corrected: bool = True,
    entropy_weight: float = 0.0, entropy_share: Share = 1.0,
    off_policy_mask_threshold: Positive | None = None, temperature: Positive = 1.0, **of_loss,
) -> Callable:  # fmt: skip
    """Make the objective.

    Args:
      loss: one of the variants above; its numbers (low, high, delta, ...) come as keywords.
      importance: "token", "sequence", "sequence_token", "whole"; the variant's own if not given.
      limit: tokens that an answer may have, for dr_grpo.
      kl_weight: of the divergence from the base; kl: its estimator, k1, k2 or k3; kl_corrected:
        weigh it by the ratio, which makes its gradient right.
      entropy_weight: of a bonus for entropy; entropy_share: of a microbatch's tokens to train on.
      off_policy_mask_threshold: of a bad row's mean log-ratio of sampler to policy, to be left out.
      temperature: of the sampling; log-probabilities are under it, so that the first ratio is 1.
    """
    variant = _find("loss", loss, VARIANTS)
    level = _find("importance", importance or variant.importance, policy_gradient.IMPORTANCE)
    _find("kl", kl, estimators.ESTIMATORS)
    _check_limit(limit, loss)
    surrogate = conf.call(variant.surrogate, of_loss, where="objective")
    asked = dict(temperature=temperature, entropy=bool(entropy_weight) or entropy_share < 1)

    def objective(policy, reference, batch, key):
        scores = policy.statistics(batch, key, **asked)
        terms = terms_of(scores.logp, batch, level)
        kept_BT = _kept(scores, terms, entropy_share, off_policy_mask_threshold)
        values_BT, metrics = surrogate(terms) * kept_BT, _metrics(terms)
        if kl_weight:
            kl_BT = estimators.ESTIMATORS[kl](scores.logp, _base(reference, batch, temperature))
            kl_BT *= policy_gradient.ratio_of(terms) if kl_corrected else 1
            values_BT, metrics["kl"] = values_BT + kl_weight * kl_BT, Mean.of(kl_BT, terms.mask_BT)
        losses = (variant.average(values_BT, terms.mask_BT, limit),)
        if entropy_weight:
            losses += (Mean.of(scores.entropy, terms.mask_BT).scale(-entropy_weight),)
        return {"loss": losses, **metrics}

    return objective


def make_advantages(*, scale: str = "group", decoupled: bool = False) -> Callable:
    """Make `(experience) -> {"advantages": [B]}` from the rewards of groups.

    Args:
      scale: "group", "batch" or "none"; see `advantages.of_groups`.
      decoupled: normalise each reward by itself first; see `advantages.decoupled`.
    """
    _find("scale", scale, advantages.SCALES)

    def credit(experience: advantages.Experience) -> dict:
        rewards = experience.rewards_BF, experience.weights_F
        size = experience.samples
        if decoupled:
            return {"advantages": advantages.decoupled(*rewards, size=size)}
        total_B = advantages.total(*rewards)
        return {"advantages": advantages.of_groups(total_B, size=size, scale=scale)}

    return credit


def _check_limit(limit: int | None, loss: str) -> None:
    if VARIANTS[loss].average is of_limit and limit is None:
        raise ValueError(f"objective.limit: got none; expected the most tokens for {loss!r}")


def terms_of(logp_BT, batch, level: Callable) -> Terms:
    """Collect what a surrogate sees of a batch."""
    mask_BT = (batch["weights"][:, 1:] > 0).astype(jnp.float32)
    advantage = batch["advantages"]
    advantage = advantage[:, None] if advantage.ndim == 1 else advantage
    # 0 off the mask: the ratio of padding is anything, and its exp may be infinite.
    log_ratio_BT = (logp_BT - batch.get("old_logps", stop_gradient(logp_BT))) * mask_BT
    return Terms(logp_BT, log_ratio_BT, level(log_ratio_BT, mask_BT), advantage, mask_BT)


def highest(entropy_BT, mask_BT, *, share: float):
    """Mark the tokens whose entropy is among the highest `share` (arXiv:2506.01939)."""
    known = jnp.where(mask_BT > 0, entropy_BT, jnp.nan)
    edge = jnp.nanquantile(known, 1 - share)
    return stop_gradient((entropy_BT * mask_BT >= edge) & (mask_BT > 0))


def on_policy(terms: Terms, *, max_divergence: float):
    """Mark rows to train on: good ones, and those that the policy has not left, [B, 1]."""
    away = -policy_gradient.row_mean(stop_gradient(terms.tokens_BT), terms.mask_BT)
    return (terms.advantage >= 0) | (away <= max_divergence)


def _kept(scores, terms: Terms, share: float, threshold: float | None):
    """Return which tokens count, [B, T] of 0 and 1."""
    # Tokens left out count in the averages all the same: the rest does not weigh more.
    kept = jnp.ones_like(terms.mask_BT)
    kept *= 1 if share >= 1 else highest(scores.entropy, terms.mask_BT, share=share)
    return kept if threshold is None else kept * on_policy(terms, max_divergence=threshold)


def _base(reference, batch, temperature: float):
    if "ref_logps" in batch:
        return batch["ref_logps"]
    return stop_gradient(reference.statistics(batch, temperature=temperature).logp)


def _metrics(terms: Terms) -> dict:
    ratio_BT = jnp.exp(terms.tokens_BT)
    return {
        "ratio": Mean.of(ratio_BT, terms.mask_BT),
        # The usual range of clipping, so that runs with other ranges compare.
        "ratio/off": Mean.of(jnp.abs(ratio_BT - 1) > 0.2, terms.mask_BT),
        "surprise": Mean.of(-terms.logp_BT, terms.mask_BT),  # estimates the entropy on policy
    }


def _find(key: str, name: str, legal: Mapping):
    if name in legal:
        return legal[name]
    raise ValueError(
        f"objective.{key}: got {name!r}; expected one of {conf.listed(legal)}; "
        f"{conf.nearest(name, legal)}"
    )
