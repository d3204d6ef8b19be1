r"""Compare the speed and memory of this checkout with those of another one, turn by turn.

    git worktree add ../before COMMIT
    python -m scripts.bench_against ../before                        all cases
    python -m scripts.bench_against ../before --cases dpo_full,generate_16 --turns 60

Both programs are compiled once, each in a process of its checkout, and then take turns of a second
or so: where the speed of a machine drifts, it drifts for both. A case is a step or a generation of
the checkout's own `scripts/bench_*.py`. For each come out the ratio of the medians, and the median
and the quartiles of the ratios turn by turn, both as (other's seconds) / (ours): above 1 we are the
faster. The processor's seconds are compared likewise. JSON lines come out.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

HERE = pathlib.Path(__file__).resolve().parents[1]
CASES = (
    "sft_lora", "sft_full", "dpo_lora", "dpo_full", "generate_1", "generate_16", "generate_64",
)  # fmt: skip
SECOND = 1.0  # of a turn: shorter than the machine's phases, longer than a clock's error


# -- in the process of a checkout ------------------------------------------------------------------


def call_of(case: str) -> Callable:
    """Return a function that runs a case once, from the benchmarks on sys.path."""
    import jax

    from scripts import bench_generate, bench_preference, bench_train

    kind, size = case.split("_")
    if kind == "generate":
        call = bench_generate.call(batch=int(size))
        return lambda: jax.block_until_ready(call())
    bench_train.prepare()
    if kind == "sft":
        shape = bench_train.SHAPES["small"]
        made, batch = bench_train.setup(size, shape), bench_train.batch_of(shape)
    else:
        reference = {"lora": "adapters_off", "full": "frozen"}[size]
        made = bench_preference.setup(size, reference=reference)
        batch = bench_preference.batch_of(reference=reference)
    step, state, frozen = made

    def run():
        nonlocal state
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready((state, metrics))

    return run


def serve(run: Callable) -> None:
    """Take turns: a count comes in; seconds of a call, the processor's and peak GiB go out."""
    run()
    print("ready", flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            run()
        took = time.perf_counter() - wall, time.process_time() - cpu
        gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
        print(json.dumps([t / int(line) for t in took] + [gib]), flush=True)


# -- in the process that compares ------------------------------------------------------------------


class Side:
    """The process of a checkout that runs a case."""

    def __init__(self, folder: pathlib.Path, case: str):
        given = {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
        # This file serves both: another checkout may lack it.
        command = [sys.executable, __file__, "--serve", case, "."]
        self._process = subprocess.Popen(
            command, cwd=folder, env=os.environ | given, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit(f"error: {folder} cannot run {case}; see its message above")

    def take(self, count: int) -> list[float]:
        """Return seconds of a call, the processor's, and the peak memory in GiB."""
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def compare(
    case: str, makers: Sequence[Callable], turns: int, *, names: tuple[str, str]
) -> dict:  # fmt: skip
    """Let both sides take turns; names: what they are called, the other one first."""
    before, now = names
    with contextlib.ExitStack() as stack:
        sides = []
        for make in makers:
            sides.append(make())
            stack.callback(sides[-1].end)
        count = max(1, round(SECOND / sides[0].take(1)[0]))
        taken = []
        for turn in range(turns):
            # Who comes second may find the machine warmer.
            order = sides if turn % 2 else sides[::-1]
            both = {side: side.take(count) for side in order}
            taken.append([both[side] for side in sides])
    found = {"case": case, "turns": turns, "calls_a_turn": count}
    for at, name in enumerate(("seconds", "cpu_seconds")):
        theirs, ours = ([turn[side][at] for turn in taken] for side in (0, 1))
        ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found |= {
            f"{name}_{before}": statistics.median(theirs),
            f"{name}_{now}": statistics.median(ours),
            f"{name}_ratio": statistics.median(theirs) / statistics.median(ours),
            f"{name}_ratio_by_turn": [low, middle, high],
        }  # fmt: skip
    return found | {f"gib_{before}": taken[-1][0][2], f"gib_{now}": taken[-1][1][2]}


def show(found: dict) -> None:
    """Print a line."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}
    print(json.dumps(rounded), flush=True)


def main() -> None:
    """Print a line for each case."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("other", type=pathlib.Path, help="folder of the other checkout")
    parser.add_argument("--cases", default=",".join(CASES), help="some of them, with commas")
    parser.add_argument("--turns", type=int, default=40, help="of each side, at least 4")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(call_of(given.serve))
    cases = given.cases.split(",")
    if wrong := set(cases) - set(CASES):
        parser.error(f"--cases: got {sorted(wrong)[0]!r}; expected one of {', '.join(CASES)}")
    if not (given.other / "scripts" / "bench_train.py").is_file():
        parser.error(f"{given.other}: expected the folder of a checkout")
    for case in cases:
        folders = given.other.resolve(), HERE
        makers = [functools.partial(Side, folder, case) for folder in folders]
        show(compare(case, makers, given.turns, names=("before", "now")))


if __name__ == "__main__":
    main()
