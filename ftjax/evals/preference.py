"""Does the model prefer what people preferred? Accuracy and reward margin on held-out pairs.

    accuracy = share of pairs with reward(chosen) > reward(rejected)          ties count a half
    reward_margin = mean of reward(chosen) - reward(rejected)

`score` says what a reward is:

    ratio       beta (log pi(y|x) - log pi_ref(y|x)): what DPO and KTO learn; 1/2 before training
    likelihood  log pi(y|x) per token: what ORPO and SimPO learn
    reward      the scalar head at the last token: a reward model
"""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from ftjax.core.config import listed, nearest
from ftjax.core.typed import Count
from ftjax.evals.lib import scoring
from ftjax.ops import products

INPUTS = ("pairs",)  # see `ftjax/run/evaluation.py`
METRICS = ("accuracy", "reward_margin", "reward_chosen", "reward_rejected")  # of the summary


def make(
    *, model, pairs: Sequence, score: str = "ratio", beta: float = 0.1,
    reference: Callable | None = None, batch_size: Count = 8, chunk: Count = 64,
    max_tokens: Count | None = None, mesh=None,
) -> scoring.Evaluator:  # fmt: skip
    """Make the evaluator of {accuracy, reward_margin, reward_chosen, reward_rejected}.

    Args:
      model: the handle.
      pairs: (chosen, rejected), each (tokens, weights); see `base.make_scorer`.
      score: ratio, likelihood or reward.
      beta: scale of ratio.
      reference: params -> the reference's params, for ratio; None = adapters off.
      batch_size: answers at a time.
      chunk: positions of logits at a time.
      max_tokens: what answers were cut to; see `scoring.make_scorer`.
      mesh: shard the answers over its replicas.

    Raises:
      ValueError: an unknown score, or no pair.
    """
    if score not in SCORES:
        raise ValueError(
            f"evals.preference.score: got {score!r}; expected one of {listed(SCORES)}; "
            f"{nearest(score, SCORES)}it is what the objective learns"
        )
    if not pairs:
        raise ValueError("evals.preference: got no pair; expected at least one; check its data")
    flat = [answer for pair in pairs for answer in pair]
    options = dict(batch_size=batch_size, chunk=chunk, max_tokens=max_tokens, mesh=mesh)
    rewards = SCORES[score](model, beta=beta, reference=reference or adapters_off, **options)

    def per_example(params) -> dict[str, np.ndarray]:
        found = rewards(params, flat).reshape(-1, 2)
        return {"chosen": found[:, 0], "rejected": found[:, 1]}

    return scoring.Evaluator(per_example, summary)


def summary(arrays: scoring.Arrays) -> dict[str, float]:
    """Summarise rewards of `chosen` and `rejected` answers."""
    margin = arrays["chosen"] - arrays["rejected"]
    return {
        "accuracy": float(np.mean((margin > 0) + 0.5 * (margin == 0))),
        "reward_margin": float(np.mean(margin)),
        "reward_chosen": float(np.mean(arrays["chosen"])),
        "reward_rejected": float(np.mean(arrays["rejected"])),
    }


def adapters_off(params: Mapping) -> dict:
    """Return what the adapters were trained over."""
    return {**params, "adapters": None}


def _ratio(model, *, beta, reference, **options):
    score = scoring.make_scorer(model, **options)

    def rewards(params, examples):
        return beta * (score(params, examples)[0] - score(reference(params), examples)[0])

    return rewards


def _likelihood(model, *, beta, reference, **options):
    del beta, reference
    score = scoring.make_scorer(model, **options)

    def rewards(params, examples):
        logp, tokens = score(params, examples)
        return logp / np.maximum(tokens, 1)

    return rewards


def make_rewarder(
    model, *, batch_size: int, max_tokens: int | None = None, mesh=None
) -> Callable:  # fmt: skip
    """Make `rewards(params, examples) -> [n]`: what `head/reward` says at each last token."""

    def last(params, batch):
        x_BTD = model.hidden(
            params["model"], batch["tokens"], positions_BT=batch["positions"],
            segments_BT=batch["segments"], adapters=params.get("adapters"),
        )  # fmt: skip
        at = jnp.maximum(batch["segments"].sum(-1) - 1, 0)
        x_BD = jnp.take_along_axis(x_BTD, at[:, None, None], 1)[:, 0].astype(jnp.float32)
        return (products.einsum("BD,D->B", x_BD, params["head"]["reward"]),)

    options = dict(batch_size=batch_size, max_tokens=max_tokens, mesh=mesh)
    run = scoring.make_runner(model, last, **options)
    return lambda params, examples: run(params, examples, count=1)[0]


def _reward(model, *, beta, reference, chunk, **options):
    del beta, reference, chunk
    return make_rewarder(model, **options)


SCORES = {"ratio": _ratio, "likelihood": _likelihood, "reward": _reward}
