"""Which arm to take: the cheapest that is not worse than the best; and when that would change.

    choose      best = highest mean; candidates = arms not worse than it; of these the cheapest
    survival    how many of ten resamples of the test items choose the same arm
    flips       for every input of the cost, the nearest values at which another arm is cheaper

A verdict that fewer than 8 of 10 resamples share reads "not resolved". Among candidates the costs
alone decide, and these are straight lines in every input, so flips are exact crossings.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.decide import prices as priced
from ftjax.decide import significance
from ftjax.decide.prices import Cost, Prices
from ftjax.evals.lib import bootstrap

SURVIVES, TRIES = 8, 10
TRY_RESAMPLES = 2_000  # of each try, more where there are many pairs
INPUTS = ("queries", "updates", "flop", "device_hour", "label")


class Verdict(NamedTuple):
    """What to take and why; survived: of TRIES resamples of the items."""

    chosen: str
    best: str
    candidates: tuple[str, ...]  # not worse than the best, cheapest first
    survived: int
    estimates: dict[str, bootstrap.Estimate]
    pairs: dict[tuple[str, str], significance.Difference]

    @property
    def is_resolved(self) -> bool:
        """Whether enough resamples choose the same."""
        return self.survived >= SURVIVES


class Flip(NamedTuple):
    """The value of an input at which `arm` becomes cheaper than the chosen one, beyond it."""

    input: str
    now: float
    at: float
    arm: str


def decide(
    scores: significance.Scores, costs: Mapping[str, float], *, seed: int = 0,
    resamples: int = significance.RESAMPLES, clusters: Sequence[int] | None = None,
) -> Verdict:  # fmt: skip
    """Choose an arm by the scores of the same items, and by costs in one unit.

    scores: arm -> [seeds, items], the higher the better; arms that cannot be chosen, such as one
    that is given the right passage, are left out. A mean that two arms share is the cheaper one's.
    clusters: of each item; those of one are resampled together, see `significance`.
    """
    n = np.shape(next(iter(scores.values())))[1]
    clusters = np.arange(n) if clusters is None else np.asarray(clusters)
    chosen, best, candidates, found, pairs = _choose(scores, costs, seed, resamples, clusters)
    generator, survived = np.random.default_rng([seed, 1]), 0
    for number in range(TRIES):
        index, drawn = _drawn(clusters, generator)
        again = {arm: np.asarray(own)[:, index] for arm, own in scores.items()}
        survived += _choose(again, costs, seed + number, TRY_RESAMPLES, drawn)[0] == chosen
    estimates = significance.estimates(scores, found)
    return Verdict(chosen, best, candidates, survived, estimates, pairs)


def _drawn(clusters: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw as many clusters as there are: their items, and the draw that each item came with."""
    names = np.unique(clusters)
    drawn = generator.integers(len(names), size=len(names))
    items = [np.flatnonzero(clusters == names[i]) for i in drawn]
    return np.concatenate(items), np.repeat(np.arange(len(items)), [len(own) for own in items])


def _choose(scores, costs: Mapping[str, float], seed: int, resamples: int, clusters) -> tuple:
    # The smallest p, 2 / (1 + resamples), must pass Holm at .05 whatever the number of pairs: with
    # fewer resamples no arm of many could be worse than another.
    pairs = len(scores) * (len(scores) - 1) // 2
    resamples = max(resamples, round(4 * pairs / (1 - significance.LEVEL)))
    found = significance.draws(scores, seed=seed, resamples=resamples, clusters=clusters)
    pairs = significance.differences(scores, found)
    by_cost = sorted(scores, key=lambda arm: costs[arm])
    best = max(by_cost, key=lambda arm: np.mean(scores[arm]))
    candidates = tuple(
        arm for arm in by_cost if not significance.is_worse(pairs, arm, best)
    )  # fmt: skip
    return candidates[0], best, candidates, found, pairs


def flips(
    chosen: str, candidates: tuple[str, ...], costs: Mapping[str, Cost], prices: Prices
) -> list[Flip]:  # fmt: skip
    """List, for every known input, the nearest values below and above where the choice changes."""
    found = []
    for name in INPUTS:
        now = prices._asdict()[name]
        if now is None:
            continue
        crossings = [
            Flip(name, now, at, arm)
            for arm in candidates
            if arm != chosen and (at := _crossing(costs[chosen], costs[arm], prices, name))
        ]
        below = [each for each in crossings if 0 <= each.at < now]
        above = [each for each in crossings if each.at > now]
        found += [max(below, key=lambda each: each.at)] if below else []
        found += [min(above, key=lambda each: each.at)] if above else []
    return found


def _crossing(a: Cost, b: Cost, prices: Prices, name: str) -> float | None:
    """Return the value of an input at which two arms cost the same; None where there is none."""
    at = lambda value: prices._replace(**{name: value})
    gap = lambda value: priced.total(a, at(value)) - priced.total(b, at(value))
    start, slope = gap(0.0), gap(1.0) - gap(0.0)
    # Costs that differ by rounding alone are equal.
    scale = max(abs(priced.total(each, at(1.0))) for each in (a, b))
    if abs(slope) <= 1e-12 * scale:
        return None
    return -start / slope if -start / slope > 0 else None
