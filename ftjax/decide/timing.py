"""How long a query of each arm takes, measured when all arms have ended.

    found = measured(own, records)           label -> {"latency", "search_s"}
    records = timed(own, records)            the same kept in DIR/latency.json

Arms are timed one after the other, in several rounds, and of each number the least counts: what
else a machine does only adds to it, and comes and goes. Timed each by itself, arms would differ by
what ran beside them.
"""

import sys
import time
from collections.abc import Mapping, Sequence

from ftjax.core import files
from ftjax.decide import arm_steps, arms, contexts
from ftjax.decide.benchmark import Benchmark

NAME = "latency.json"


def timed(own: Benchmark, records: Mapping[str, dict]) -> dict[str, dict]:
    """Add to every record its latency, and the seconds of a search; those that failed stay.

    What was measured before is read back, unless an arm has changed.
    """
    path = own.workdir / NAME
    digests = {label: each["digest"] for label, each in records.items() if "error" not in each}
    kept = files.read_json(path) if path.is_file() else {}
    if kept.get("digests") != digests:
        kept = {"digests": digests, "arms": measured(own, records)}
        files.write_json(path, kept)
    return {label: each | kept["arms"].get(label, {}) for label, each in records.items()}


def measured(own: Benchmark, records: Mapping[str, dict]) -> dict[str, dict]:
    """Measure every arm that has a result, in rounds."""
    done = [label for label, each in records.items() if "error" not in each]
    rounds: dict[str, list[dict]] = {label: [] for label in done}
    for number in range(own.decision.latency_rounds if own.decision.latency_rows else 0):
        sys.stdout.write(f"timing: round {number + 1} of {own.decision.latency_rounds}\n")
        sys.stdout.flush()
        for label in done:
            rounds[label].append(_once(own, label, records[label]))
    return {label: _least(found) for label, found in rounds.items()}


def _once(own: Benchmark, label: str, record: Mapping) -> dict:
    """Measure one arm, with the weights of its first seed."""
    trial, params = arms.Trial(**record["trials"][record["trial"]]), own.base
    if source := own.source(label):
        best = record["trial"] if source == label else arm_steps.best_trial(own, source)
        folder = arm_steps.run_folder(own, source, best, seed=record["seeds"][0])
        params = arm_steps.trained(folder)
    asked, start = own.sets.test, time.perf_counter()
    prompts, _ = contexts.make(own.maker(), own.arm(label), trial, asked)
    search_s = (time.perf_counter() - start) / len(asked)
    latency = own.answerer.timed(params, [each.text for each in prompts], asked)
    return {**latency._asdict(), "search_s": search_s if own.arm(label).passages else None}


def _least(found: Sequence[Mapping]) -> dict:
    """Take the least of every number over the rounds."""
    if not found:
        return {"latency": None, "search_s": None}
    least = {
        key: None if value is None else min(each[key] for each in found)
        for key, value in found[0].items()
    }
    search_s = least.pop("search_s")
    return {"latency": least, "search_s": search_s}
