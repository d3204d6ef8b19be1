r"""Many adapter runs as one program, against the same runs one after another.

    python -m scripts.bench_members --members 8 --steps 100

Commands, all included (imports, compiling, data, evaluations, exports): seconds, CPU seconds and
the largest memory of one process, of `experiments.train` with `members()` and of as many runs
alone. Then the step alone, in this process: CPU seconds of one step of all members over that of as
many solo steps, both ways, and what XLA keeps besides arguments; `--ranks 16` leaves out what the
smaller ranks cost that are filled up. Members have ranks 2 to 16 and
four learning rates over the embedded base, batches of 4 x 64 and one evaluation before and after;
each side uses the cache of compiled programs that it fills itself. On an accelerator the step alone
is measured in seconds that pass: `JAX_PLATFORMS=cuda python -m scripts.bench_members --steps 0`.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

ALONE = """
from configs import members_tiny


def get_config(arg=None):
    c = members_tiny.get_config(arg)
    c.batch_size, c.evals.skill.rows = {batch}, 16
    del c.evals["skills"]
    return c
"""
MEMBERS = """

def members():
    return {rows!r}
"""
RATES, RANKS = (1e-3, 2e-3, 4e-3, 8e-3), (2, 4, 8, 16)


def rows_of(count: int, ranks: Sequence[int] = RANKS) -> list[dict]:
    """List members: every rank and every rate as often."""
    rank = lambda i: ranks[(i + i // len(ranks)) % len(ranks)]
    return [dict(lr=RATES[i % 4], rank=rank(i), seed=i) for i in range(count)]


def command(*arguments, cache: pathlib.Path) -> dict[str, float]:
    """Run the trainer; returns its seconds, CPU seconds and largest memory."""
    start = time.perf_counter()
    # A process in between: its children are this command alone, whose memory is its largest.
    code = (
        "import resource, subprocess, sys, json\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps(dict(code=done.returncode, cpu_s=used.ru_utime + used.ru_stime,"
        " gib=used.ru_maxrss / 2**20)))\n"
    )
    trainer = [sys.executable, "-m", "experiments.train", *map(str, arguments)]
    trainer += [f"--config.compile_cache={cache}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *trainer], stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout)
    if found.pop("code"):
        raise RuntimeError(f"{' '.join(trainer)}: did not end well")
    return {"s": time.perf_counter() - start, **found}


def commands(folder: pathlib.Path, rows: list[dict], steps: int) -> dict[str, dict]:
    """Run all members as one command, and each alone."""
    print(f"{len(rows)} members, {steps} steps", flush=True)
    one = command(
        "--config", f"{folder}/together.py:steps={steps}", "--workdir", folder / "together",
        cache=folder / "cache_members",
    )  # fmt: skip
    alone = []
    for i, row in enumerate(rows):
        keys = {"optim.learning_rate": row["lr"], "adapter.rank": row["rank"]}
        keys |= dict.fromkeys(("seed.data", "seed.adapter", "seed.sampling"), row["seed"])
        given = [f"--config.{key}={value}" for key, value in keys.items()]
        alone.append(command(
            "--config", f"{folder}/alone.py:steps={steps}", "--workdir", folder / f"alone{i}",
            *given, cache=folder / "cache_alone",
        ))  # fmt: skip
    total = {key: sum(run[key] for run in alone) for key in ("s", "cpu_s")}
    return {"members": one, "alone": total | {"gib": max(run["gib"] for run in alone)}}


def steps_of(folder: pathlib.Path, rows: list[dict], repeats: int) -> dict[str, dict]:
    """Measure the step of all members, both ways, and that of each alone."""
    import jax

    from ftjax.run import hyper, member_arrays, member_parts, member_settings, plan
    from ftjax.train import members

    config = f"{folder}/together.py:steps=100"
    chosen = member_settings.read(config, [], member_settings.Listed(rows))
    found = member_parts.plan(chosen)
    whole = member_arrays.Arrays(found)
    firsts, frozen = member_parts.weights(found, folder)
    batch = next(member_parts.batches(found))
    numbers, both = whole.hyper(), whole.frozen(list(frozen.values()))
    result = {}
    for how in members.HOW:
        arguments = (whole.start(list(firsts.values())), numbers, both, batch)
        result[how] = measure(whole.compiled(how), arguments, repeats)
    alone = []
    for i, (name, p) in enumerate(found.items()):
        own = jax.tree.map(lambda x, i=i: x[i], batch)
        arguments = (plan.begin(p, firsts[name]), hyper.place(p), frozen[name], own)
        alone.append(measure(plan.compiled_step(p), arguments, repeats))
    total = sum(run["s"] for run in alone)
    result["alone"] = {"s": total, "mib": max(run["mib"] for run in alone)}
    return result


def measure(step, arguments, repeats: int) -> dict[str, float]:
    """Return the median seconds of a step (a CPU's own), and the MiB of its temporaries."""
    import jax

    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    memory = step.lower(*arguments).compile().memory_analysis()
    state, *rest = arguments
    seconds = []
    for _ in range(2 + repeats):
        start = clock()
        state, metrics = step(state, *rest)
        jax.block_until_ready((state, metrics))
        seconds.append(clock() - start)
    return {"s": statistics.median(seconds[2:]), "mib": memory.temp_size_in_bytes / 2**20}


def main() -> None:
    """Print what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100, help="0: the step alone")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS, help="of the members")
    parser.add_argument("--batch", type=int, default=4, help="rows of a member")
    parser.add_argument("--repeats", type=int, default=10, help="of the step alone; 0: commands")
    given = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rows = rows_of(given.members, given.ranks)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        alone = ALONE.format(batch=given.batch)
        (folder / "alone.py").write_text(alone)
        (folder / "together.py").write_text(alone + MEMBERS.format(rows=rows))
        if given.steps:
            found = commands(folder, rows, given.steps)
            for label, own in found.items():
                print(label, "  ".join(f"{key} {value:.2f}" for key, value in own.items()))
            faster = found["alone"]["s"] / found["members"]["s"]
            print(f"members are {faster:.2f} times as fast", flush=True)
        if given.repeats:
            found = steps_of(folder, rows, given.repeats)
            for label, own in found.items():
                share = own["s"] / found["alone"]["s"]
                print(f"step {label}: {own['s']:.4f} s ({share:.2f}), {own['mib']:.0f} MiB")


if __name__ == "__main__":
    main()
