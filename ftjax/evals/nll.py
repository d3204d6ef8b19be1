"""Negative log-likelihood of held-out text: the first thing to measure, and the least noisy.

    nll = - sum_i w_i log p(y_i | y_<i) / sum_i w_i            nats per target token

over all tokens of all examples together, which is not the mean of the examples' means; both are
given, because long examples dominate the first and short ones the second. Targets are shifted by
one: token i is predicted from the tokens before it. perplexity = exp(nll); bits per byte, which
compares across tokenizers, = total nats / (ln 2 * bytes).
"""

import math
from collections.abc import Sequence

import numpy as np

from ftjax.core.typed import Count
from ftjax.evals.lib import bootstrap, scoring

INPUTS = ("examples",)  # see `ftjax/run/evaluation.py`
METRICS = ("nll", "nll_per_example", "perplexity", "tokens", "bits_per_byte")  # of the summary


def make(
    *, model, examples: Sequence, byte_counts: Sequence[int] | None = None, batch_size: Count = 8,
    chunk: Count = 64, max_tokens: Count | None = None, mesh=None,
) -> scoring.Evaluator:  # fmt: skip
    """Make the evaluator of {nll, nll_per_example, perplexity, tokens[, bits_per_byte]}.

    Args:
      model: the handle.
      examples: (tokens, weights) pairs; see `base.make_scorer`.
      byte_counts: UTF-8 bytes of each example's target text, for bits per byte.
      batch_size: examples at a time.
      chunk: positions of logits at a time.
      max_tokens: what examples were cut to; see `scoring.make_scorer`.
      mesh: shard the examples over its replicas.

    Raises:
      ValueError: no example has a target, or byte_counts is not one per example.
    """
    targets = [float(np.sum(each[1][1:])) for each in examples]
    if not any(targets):
        raise ValueError(
            f"evals.nll: got {len(examples)} examples without any target; expected a positive "
            "weight on some token after the first; check the data's loss setting"
        )
    if byte_counts is not None and len(byte_counts) != len(examples):
        raise ValueError(
            f"evals.nll.byte_counts: got {len(byte_counts)}; expected {len(examples)}, one per "
            "example"
        )
    options = dict(batch_size=batch_size, chunk=chunk, max_tokens=max_tokens, mesh=mesh)
    score = scoring.make_scorer(model, **options)

    def per_example(params) -> dict[str, np.ndarray]:
        logp, weight = score(params, examples)
        arrays = {"nll": -logp, "tokens": weight}
        return arrays if byte_counts is None else arrays | {"bytes": np.float64(byte_counts)}

    return scoring.Evaluator(per_example, summary)


@bootstrap.along_rows
def summary(arrays: scoring.Arrays) -> dict[str, float]:
    """Summarise per-example `nll` (a sum, nats), `tokens` (target weight) and maybe `bytes`.

    Of arrays [..., n] each metric is an array [...].
    """
    total, tokens = arrays["nll"].sum(-1), arrays["tokens"].sum(-1)
    has = arrays["tokens"] > 0  # an example without targets has no mean
    means = np.divide(arrays["nll"], arrays["tokens"], out=np.zeros(has.shape), where=has)
    nll = total / tokens
    with np.errstate(over="ignore"):  # of weights that are lost, infinity is the perplexity
        result = {
            "nll": nll,
            "nll_per_example": means.sum(-1) / has.sum(-1),
            "perplexity": np.exp(nll),
            "tokens": tokens,
        }
    if "bytes" in arrays:
        result["bits_per_byte"] = total / (math.log(2) * arrays["bytes"].sum(-1))
    return result if nll.ndim else {name: float(value) for name, value in result.items()}
