"""How far the model moved from its base on a text: divergences of the next-token distributions.

    kl_forward = sum_i w_i KL(p0(. | y_<i) | p(. | y_<i)) / sum_i w_i        nats per target token

p0 is the base and p the model; the other measures of `lib.drift` likewise. On the new task's rows
it says how much was changed to learn it, on old rows how much of that reached them. Distributions
are compared where a target follows, targets being shifted by one, as for `nll`.
`kl_forward_per_sequence` is the mean over examples of the sum over their tokens.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from ftjax.core.typed import Count
from ftjax.evals.lib import bootstrap, drift, scoring

# The base first: it is refused before data are encoded. See `ftjax/run/evaluation.py`.
INPUTS = ("base", "examples")
NAMES = (*drift.NAMES, "tokens")  # of the arrays
METRICS = (*drift.NAMES, "kl_forward_per_sequence", "kl_reverse_per_sequence", "tokens")


def make(
    *, model, examples: Sequence, base_of: Callable, batch_size: Count = 8, chunk: Count = 64,
    max_tokens: Count | None = None, mesh=None,
) -> scoring.Evaluator:  # fmt: skip
    """Make the evaluator of {kl_forward, kl_reverse, ce_to_base, tv, js, top1_agreement, ...}.

    Args:
      model: the handle.
      examples: (tokens, weights) pairs; see `scoring.make_scorer`.
      base_of: params -> the base's params, such as those with the adapters off.
      batch_size: examples at a time.
      chunk: positions of both models' logits at a time, over the full vocabulary.
      max_tokens: what examples were cut to; see `scoring.make_scorer`.
      mesh: shard the examples over its replicas.

    Raises:
      ValueError: no example has a target.
    """
    if not any(float(np.sum(weights[1:])) for _, weights in examples):
        raise ValueError(
            f"evals.drift: got {len(examples)} examples without any target; expected a positive "
            "weight on some token after the first; check the data's loss setting"
        )

    def score_batch(both, batch):
        states = [scoring.states(model, params, batch) for params in both]
        found_BTM = drift.along(*states, chunk=chunk)[:, :-1]
        weights_BT = batch["weights"][:, 1:]
        # Where nothing is a target, padding may give what is no number.
        counted = jnp.where(weights_BT[..., None] == 0, 0, found_BTM * weights_BT[..., None])
        return *jnp.moveaxis(counted.sum(1), -1, 0), weights_BT.sum(-1)

    options = dict(batch_size=batch_size, max_tokens=max_tokens, mesh=mesh)
    score = scoring.make_runner(model, score_batch, **options)

    def per_example(params) -> dict[str, np.ndarray]:
        found = score((base_of(params), params), examples, count=len(NAMES))
        return dict(zip(NAMES, found, strict=True))

    return scoring.Evaluator(per_example, summary)


@bootstrap.along_rows
def summary(arrays: scoring.Arrays) -> dict[str, float]:
    """Summarise per-example sums over target tokens, and `tokens` (target weight).

    Of arrays [..., n] each metric is an array [...].
    """
    total, has = arrays["tokens"].sum(-1), arrays["tokens"] > 0
    result = {name: arrays[name].sum(-1) / total for name in drift.NAMES}
    for name in ("kl_forward", "kl_reverse"):
        means = np.where(has, arrays[name], 0).sum(-1) / has.sum(-1)
        result[f"{name}_per_sequence"] = means
    result["tokens"] = total
    return result if total.ndim else {name: float(value) for name, value in result.items()}
