"""How long a query of each arm takes, measured when all arms have ended.

    found = measured(own, records)           label -> {"latency", "search_s"}
    records = timed(own, records)            the same kept in DIR/latency.json

A machine that does other things too, or whose clock is not steady, is twice as slow at one moment
as at another. So every batch is timed right behind a reference, which is the base that answers the
questions as they stand, and an arm's time is the median of the ratio to it, over several rounds of
all arms, times `reference_s`: the least that the reference took. Two measurements are compared by
their seconds over their own `reference_s`, which leaves out what the machine was.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ftjax.core import files
from ftjax.decide import answering, arm_steps, arms, contexts
from ftjax.decide.benchmark import Benchmark

NAME = "latency.json"
VERSION = 2  # of how it is measured


class Round(NamedTuple):
    """One arm in one round; search_s: of a question, None where nothing is searched."""

    timing: answering.Timing
    search_s: float | None


def timed(own: Benchmark, records: Mapping[str, dict]) -> dict[str, dict]:
    """Add to every record its latency, and the seconds of a search; those that failed stay.

    What was measured before is read back, unless an arm has changed.
    """
    path = own.workdir / NAME
    digests = {label: each["digest"] for label, each in records.items() if "error" not in each}
    kept = files.read_json(path) if path.is_file() else {}
    if (kept.get("version"), kept.get("digests")) != (VERSION, digests):
        kept = {"version": VERSION, "digests": digests, "arms": measured(own, records)}
        files.write_json(path, kept)
    return {label: each | kept["arms"].get(label, {}) for label, each in records.items()}


def measured(own: Benchmark, records: Mapping[str, dict]) -> dict[str, dict]:
    """Measure every arm that has a result, in rounds.

    `latency` holds the seconds to the first token and to the end of a query alone (medians and 95th
    percentiles, the least of the rounds), `batch_s` of a full batch, over its rows, and
    `reference_s` of the reference, over its rows; None where nothing is to be timed.
    """
    done = [label for label, each in records.items() if "error" not in each]
    if not own.decision.latency_rows:
        return {label: {"latency": None, "search_s": None} for label in done}
    asked = own.sets.test
    beside = own.answerer.batch(own.base, [each.prompt for each in asked], asked)
    rounds: dict[str, list[Round]] = {label: [] for label in done}
    for number in range(own.decision.latency_rounds):
        sys.stdout.write(f"timing: round {number + 1} of {own.decision.latency_rounds}\n")
        sys.stdout.flush()
        for label in done:
            rounds[label].append(_once(own, label, records[label], beside))
    every = [other for found in rounds.values() for each in found for _, other in each.timing.pairs]
    least = min(every, default=0.0)
    return {
        label: _together(found, least, rows=own.answerer.batch_size)
        for label, found in rounds.items()
    }


def _once(own: Benchmark, label: str, record: Mapping, beside: Callable[[], Any]) -> Round:
    """Measure one arm, with the weights of its first seed."""
    trial, params = arms.Trial(**record["trials"][record["trial"]]), own.base
    if source := own.source(label):
        best = record["trial"] if source == label else arm_steps.best_trial(own, source)
        folder = arm_steps.run_folder(own, source, best, seed=record["seeds"][0])
        params = arm_steps.trained(folder)
    asked, start = own.sets.test, time.perf_counter()
    prompts, _ = contexts.make(own.maker(), own.arm(label), trial, asked)
    search_s = (time.perf_counter() - start) / len(asked)
    found = own.answerer.timed(params, [each.text for each in prompts], asked, beside)
    return Round(found, search_s if own.arm(label).passages else None)


def _together(found: Sequence[Round], reference_s: float, *, rows: int) -> dict:
    """Put the rounds of an arm together; reference_s: the least of the reference, of all rows."""
    timings = [each.timing for each in found]
    least = lambda key, share: min(float(np.quantile(getattr(t, key), share)) for t in timings)
    ratio = _median(own / other for timing in timings for own, other in timing.pairs)
    searches = [
        each.search_s / _median(other for _, other in each.timing.pairs)
        for each in found
        if each.search_s is not None
    ]
    latency = {
        "first_s": least("first", 0.5), "first_p95_s": least("first", 0.95),
        "whole_s": least("whole", 0.5), "whole_p95_s": least("whole", 0.95),
        "batch_s": ratio * reference_s / rows, "reference_s": reference_s / rows,
    }  # fmt: skip
    return {"latency": latency, "search_s": _median(searches) * reference_s if searches else None}


def _median(found: Iterable[float]) -> float:
    return float(np.median(list(found)))
