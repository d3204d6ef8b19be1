"""What fine-tuning taught and what it made the model forget: pure functions of two evaluations.

    base_loss_delta = nll(after) - nll(before)                        nats per token, 0 = kept
    retention       = mean_b (after_b - chance_b) / (before_b - chance_b)         1 = kept
    gain            = after - before in the metric's good direction   > 0 learned, < 0 forgotten

Before is the model with its adapters off. A change whose confidence interval holds 0, or that is
not above the noise floor, is "not resolved" and not called forgetting.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.evals import bootstrap

HIGHER, LOWER = 1, -1
DIRECTIONS = {
    "accuracy": HIGHER, "bits_per_byte": LOWER, "exact_match": HIGHER, "f1": HIGHER,
    "loss": LOWER, "margin": HIGHER, "nll": LOWER, "nll_per_example": LOWER, "perplexity": LOWER,
}  # fmt: skip
FACTS = ("chance", "tokens")  # describe the evaluation and not the model


class Row(NamedTuple):
    """One metric before and after; low and high bound the change, NaN where not estimated."""

    metric: str
    before: float
    after: float
    change: float
    low: float
    high: float
    direction: int  # 1 = higher is better, -1 = lower
    verdict: str  # learned, forgotten, not resolved


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


def noise_floor(scores: Sequence[float]) -> float:
    """Return the largest difference between runs of one unchanged configuration."""
    return float(np.max(scores) - np.min(scores))


def direction(metric: str, directions: Mapping[str, int] | None = None) -> int:
    """Say whether more of `metric` is better (1) or worse (-1), by its last segment.

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


def rows(
    before: Mapping[str, float], after: Mapping[str, float], *,
    estimates: Mapping[str, bootstrap.Estimate] | None = None, floor: float = 0.0,
    directions: Mapping[str, int] | None = None,
) -> list[Row]:  # fmt: skip
    """Compare two evaluations metric by metric; metrics that state facts are left out.

    Args:
      before: {"<label>/<metric>": value}.
      after: the same later; metrics of both are compared.
      estimates: intervals of the changes, by metric.
      floor: changes up to this size are noise; see `noise_floor`.
      directions: of further metrics, 1 or -1 by last segment.
    """
    names = [n for n in before if n in after and n.rsplit("/", 1)[-1] not in FACTS]
    result = []
    for name in names:
        sign, change = direction(name, directions), after[name] - before[name]
        found = (estimates or {}).get(name)
        low, high = (math.nan, math.nan) if found is None else (found.low, found.high)
        verdict = _verdict(sign * change, resolved=_resolved(change, low, high, floor))
        result.append(Row(name, before[name], after[name], change, low, high, sign, verdict))
    return result


def _resolved(change: float, low: float, high: float, floor: float) -> bool:
    holds_zero = low <= 0 <= high  # False for NaN: no interval, no objection
    return abs(change) > floor and not holds_zero


def _verdict(gain: float, *, resolved: bool) -> str:
    if not resolved:
        return "not resolved"
    return "learned" if gain > 0 else "forgotten"


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out as a Markdown table; the arrow shows the good direction."""
    lines = ["| metric | before | after | change | 95 % interval | |", "|---|--:|--:|--:|---|---|"]
    for row in rows:
        arrow = "↑" if row.direction == HIGHER else "↓"
        interval = "" if math.isnan(row.low) else f"{row.low:+.4f} to {row.high:+.4f}"
        lines.append(
            f"| {row.metric} {arrow} | {row.before:.4f} | {row.after:.4f} | {row.change:+.4f} "
            f"| {interval} | {row.verdict} |"
        )
    return "\n".join(lines)
