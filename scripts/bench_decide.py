r"""Time the arms of a finished decision again, beside what its report says.

    python -m scripts.bench_decide --config configs/decide_tiny.py --workdir runs/decide

Of every arm that has a result: milliseconds a query, that is a full batch over its rows and the
search before it, measured here as in the report, and `raw`, their ratio. `machine` is the same
ratio of the reference that both measured in turn with every batch (ftjax/decide/timing.py): how
much slower the machine is now. `ratio` is what is left of `raw` without it. JSON lines come out,
and code 1 where a `ratio` is not within `--tolerance` of 1. More `--rounds` help.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

from experiments import decide
from ftjax.core import compile_cache, device, files
from ftjax.decide import benchmark, decision_report, timing

TOLERANCE = 0.1


def seconds(arm: dict) -> float:
    """Return the seconds of a query: a batch over its rows, and the search before it."""
    return arm["latency"]["batch_s"] + (arm["search_s"] or 0.0)


def compared(own: benchmark.Benchmark, record: dict) -> list[dict]:
    """Measure every arm that was timed.

    Raises:
      ValueError: the report's times have no reference beside them.
    """
    timed = {
        label: arm for label, arm in record["arms"].items() if "error" not in arm and arm["latency"]
    }
    if not all(arm["latency"].get("reference_s") for arm in timed.values()):
        raise ValueError(
            f"{decision_report.JSON}: got times without reference_s; expected them of today's "
            "way of timing; run the decision again, which measures them alone"
        )
    found, again = [], timing.measured(own, timed)
    for label, arm in timed.items():
        there, here = seconds(arm), seconds(again[label])
        row = {"arm": label, "report_ms": round(1e3 * there, 3), "ms": round(1e3 * here, 3)}
        raw = here / there
        machine = again[label]["latency"]["reference_s"] / arm["latency"]["reference_s"]
        ratios = {"raw": raw, "machine": machine, "ratio": raw / machine}
        found.append(row | {key: round(value, 3) for key, value in ratios.items()})
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    """Measure, print, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="of the decision, with its arguments")
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--rounds", type=int, help="by default as many as the config has")
    given = parser.parse_args()
    # As the command itself starts: in fresh memory batches take up to half as long again.
    compile_cache.use("auto")
    device.reuse_memory()
    decision = decide.read(given.config)
    if given.rounds:
        decision = dataclasses.replace(decision, latency_rounds=given.rounds)
    own = benchmark.open_benchmark(decision, given.workdir)
    found = compared(own, files.read_json(given.workdir / decision_report.JSON))
    apart = [row["arm"] for row in found if abs(row["ratio"] - 1) > given.tolerance]
    if apart:
        sys.exit(
            f"not within {given.tolerance:.0%} of the report: {', '.join(apart)}; was the report "
            f"timed beside other work? Without {timing.NAME} experiments.decide times anew"
        )


if __name__ == "__main__":
    main()
