r"""Time the arms of a finished decision again, beside what its report says.

    python -m scripts.bench_decide --config configs/decide_tiny.py --workdir runs/decide

Of every arm that has a result: milliseconds a query, that is a full batch over its rows and the
search before it, measured here and in the report, and their ratio. JSON lines come out, and code 1
where one is not within `--tolerance` of the report; on a machine that does other things too both
swing by more.
"""

import argparse
import json
import pathlib
import sys
import time

from experiments import decide
from ftjax.core import files
from ftjax.decide import arm_steps, arms, benchmark, contexts, decision_report

TOLERANCE = 0.1


def reported_s(arm: dict) -> float:
    """Return the seconds of a query that a record holds."""
    return arm["latency"]["batch_s"] + (arm["search_s"] or 0.0)


def measured_s(own: benchmark.Benchmark, label: str, arm: dict) -> float:
    """Measure the seconds of a query: a batch over its rows, and the search before it."""
    trial = arms.Trial(**arm["trials"][arm["trial"]])
    params = own.base
    if source := own.source(label):
        best = arm["trial"] if source == label else arm_steps.best_trial(own, source)
        params = arm_steps.trained(arm_steps.run_folder(own, source, best, seed=arm["seeds"][0]))
    start = time.perf_counter()
    prompts, _ = contexts.make(own.maker(), own.arm(label), trial, own.sets.test)
    search = (time.perf_counter() - start) / len(prompts) if own.arm(label).passages else 0.0
    return own.answerer.timed(params, [each.text for each in prompts]).batch_s + search


def compared(own: benchmark.Benchmark, record: dict) -> list[dict]:
    """Measure every arm that was timed."""
    found = []
    for label, arm in record["arms"].items():
        if "error" in arm or not arm["latency"]:
            continue
        there, here = reported_s(arm), measured_s(own, label, arm)
        row = {"arm": label, "report_ms": round(1e3 * there, 3), "ms": round(1e3 * here, 3)}
        found.append(row | {"ratio": round(here / there, 3)})
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    """Measure, print, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="of the decision, with its arguments")
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    given = parser.parse_args()
    own = benchmark.open_benchmark(decide.read(given.config), given.workdir)
    found = compared(own, files.read_json(given.workdir / decision_report.JSON))
    apart = [row["arm"] for row in found if abs(row["ratio"] - 1) > given.tolerance]
    if apart:
        sys.exit(f"not within {given.tolerance:.0%} of the report: {', '.join(apart)}")


if __name__ == "__main__":
    main()
