r"""Measure how long data take to be ready: encoded at the first start, mapped at the second.

    python -m scripts.bench_data                              # 10,000 and 100,000 rows
    python -m scripts.bench_data --rows 1000000 --data train.jsonl

Rows are a prompt of 30 words and an answer of 30, drawn by seed, through the embedded tokenizer;
`--data` repeats the lines of a file instead. Each start is a process of its own over one cache.
Seconds are of CPU, all threads together: company on the machine lengthens them less.
Peak memory is that of the process less what it has after its imports: pages of mapped files count
where they were touched, and are shared between processes.
"""

import json
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time

from absl import app, flags

ROWS = flags.DEFINE_list("rows", ["10000", "100000"], "how many rows, one table line each")
DATA = flags.DEFINE_string("data", "", "JSON lines of prompt and response to repeat; made if none")
START = flags.DEFINE_string("start", "", "used by this script itself: the file of one start")
OFF = flags.DEFINE_bool("off", False, "used by this script itself: look for no near duplicates")
WORDS = 30
MIB = 2**10  # of ru_maxrss, in KiB


def main(_) -> None:
    """Print one line of a table for each number of rows."""
    if START.value:
        print(json.dumps(start(START.value, look=not OFF.value)))
        return
    print("| rows | file | first start | of it copies | memory | second start | memory |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for count in map(int, ROWS.value):
        print(line(count), flush=True)


def line(count: int) -> str:
    """Measure one number of rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.jsonl"
        write(path, count)
        size = path.stat().st_size / 2**20
        plain, first, second = (
            measured(path, cache=f"{folder}/{name}", off=name == "plain")
            for name in ("plain", "cache", "cache")
        )
    copies = first["seconds"] - plain["seconds"]
    return (
        f"| {count:,} | {size:.0f} MiB | {first['seconds']:.1f} s | {copies:.1f} s "
        f"| {first['mib']:.0f} MiB | {second['seconds']:.2f} s | {second['mib']:.0f} MiB |"
    )


def write(path: pathlib.Path, count: int) -> None:
    """Write so many rows, made or repeated with their number."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghiklmnoprstu", k=rng.randint(2, 8))) for _ in range(5000)]
    said = lambda: " ".join(rng.choices(words, k=WORDS))
    given = pathlib.Path(DATA.value).read_text().splitlines() if DATA.value else []
    with path.open("w") as file:
        for n in range(count):
            row = {"prompt": said(), "response": f" {said()}"} if not given else None
            row = row or json.loads(given[n % len(given)]) | {"number": n}
            file.write(json.dumps(row) + "\n")


def measured(path: pathlib.Path, *, cache: str, off: bool) -> dict:
    """Run one start in a process of its own."""
    command = [sys.executable, "-m", "scripts.bench_data", "--start", path, f"--off={off}"]
    variables = {"FTJAX_CACHE": cache, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        ["env", *(f"{k}={v}" for k, v in variables.items()), *map(str, command)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def start(path: str, *, look: bool) -> dict:
    """Make the loader of a run and its first batch; returns seconds and MiB."""
    import ftjax
    from ftjax.data import loader, tokenizer_files

    base = pathlib.Path(ftjax.__file__).parent / "assets" / "tiny"
    tokenizer = tokenizer_files.load(base)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    made = loader.make(
        name="jsonl", path=path, tokenizer=tokenizer, max_tokens=256, batch_size=16,
        eval_texts={} if look else None,
    )  # fmt: skip
    made.batch(0)
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "mib": (peak - before) / MIB}


if __name__ == "__main__":
    app.run(main)
