"""What fine-tuning taught and what it made the model forget: pure functions of two evaluations.

    base_loss_delta = nll(after) - nll(before)                        nats per token, 0 = kept
    retention       = mean_b (after_b - chance_b) / (before_b - chance_b)         1 = kept

Before is the model with its adapters off.
"""

import difflib
from collections.abc import Mapping

import numpy as np

from ftjax.evals.lib import bootstrap

HIGHER, LOWER = 1, -1
DIRECTIONS = {
    "accuracy": HIGHER, "bits_per_byte": LOWER, "ce_to_base": LOWER, "exact_match": HIGHER,
    "f1": HIGHER, "js": LOWER, "kl_forward": LOWER, "kl_forward_per_sequence": LOWER,
    "kl_reverse": LOWER, "kl_reverse_per_sequence": LOWER, "loss": LOWER, "margin": HIGHER,
    "nll": LOWER, "nll_per_example": LOWER, "perplexity": LOWER,
    "reward": HIGHER, "reward_margin": HIGHER, "top1_agreement": HIGHER, "tv": LOWER,
}  # fmt: skip


def base_loss_delta(
    before: bootstrap.Arrays, after: bootstrap.Arrays, *, average: str = "tokens", seed: int = 0,
    resamples: int = 1000,
) -> bootstrap.Estimate:  # fmt: skip
    """Estimate nll(after) - nll(before) on base data, with a 95 % paired bootstrap interval.

    before, after: {"nll": summed nats [n], "tokens": targets [n]} of the same examples.
    average: over all tokens, or over examples' means ("examples").
    """
    means = {"tokens": _over_tokens, "examples": _over_examples}
    if average not in means:
        raise ValueError(f"average: got {average!r}; expected one of {', '.join(means)}")
    summary = lambda arrays: {"delta": means[average](arrays)}
    found = bootstrap.differences(summary, before, after, seed=seed, resamples=resamples)
    return found["delta"]


def _over_tokens(arrays: bootstrap.Arrays) -> float:
    return float(arrays["nll"].sum() / arrays["tokens"].sum())


def _over_examples(arrays: bootstrap.Arrays) -> float:
    has = arrays["tokens"] > 0
    return float(np.mean(arrays["nll"][has] / arrays["tokens"][has]))


def retention(
    before: Mapping[str, float], after: Mapping[str, float], chance: Mapping[str, float]
) -> float:
    """Average the kept part of the score above chance over benchmarks; 1 = nothing forgotten.

    Raises:
      ValueError: the benchmarks differ, or the base is not above chance on one: what was never
        there cannot be kept.
    """
    if not before or before.keys() != after.keys() or before.keys() != chance.keys():
        raise ValueError(
            f"retention: got before {sorted(before)}, after {sorted(after)}, chance "
            f"{sorted(chance)}; expected the same benchmarks in all three"
        )
    low = [name for name in before if before[name] <= chance[name]]
    if low:
        raise ValueError(
            f"retention: got a base score at or below chance on {', '.join(low)}; expected above; "
            "leave these out"
        )
    kept = [(after[name] - chance[name]) / (before[name] - chance[name]) for name in before]
    return float(np.mean(kept))


def direction(metric: str, directions: Mapping[str, int] | None = None) -> int:
    """Return whether more of `metric` is better (1) or worse (-1), by its last segment.

    Raises:
      ValueError: an unknown metric; give its direction in `directions`.
    """
    known, name = DIRECTIONS | dict(directions or {}), metric.rsplit("/", 1)[-1]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"metric: got {metric!r}; expected one of {', '.join(sorted(known))}; {hint}pass "
            f"directions={{{name!r}: 1}} if higher is better, -1 if lower"
        )
    return known[name]
