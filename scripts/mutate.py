"""Break one line at a time and see whether a test notices: the tests of the tests.

    python -m scripts.mutate                       # all of scripts/mutations.py
    python -m scripts.mutate --only advantages     # those whose file or fragment matches
    python -m scripts.mutate --jobs 4 --limit 120

Each mutation is made in a copy of the tree, where its tests run in a process of their own, without
reference files. It is killed where a test fails (or hangs); what survives is a line that can be
wrong without anybody knowing. The exit code is 1 if something survives without a reason.
"""

import argparse
import collections
import concurrent.futures
import multiprocessing
import os
import pathlib
import queue
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from typing import NamedTuple

from scripts.mutations import MUTATIONS, Mutation

ROOT = pathlib.Path(__file__).resolve().parents[1]
PARTS = ("ftjax", "experiments", "configs", "scripts", "tests", "docs")
# Imported once, by the process that the others are forked from; nothing of the tree itself.
PRELOADED = ["jax", "flax.nnx", "optax", "orbax.checkpoint", "safetensors.numpy", "pytest"]
PASSED, FAILED = 0, 1  # exit codes of pytest; 2 is an error while it imports a test


class Outcome(NamedTuple):
    """What became of a mutation: `fate` is killed, survived or red (without any mutation)."""

    mutation: Mutation
    fate: str
    seconds: float
    detail: str = ""


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments say; returns the exit code."""
    given = _parse(argv)
    chosen = [m for m in MUTATIONS if re.search(given.only, f"{m.file} {m.old}")]
    if not chosen:
        raise SystemExit(f"--only: got {given.only!r}, which matches no file and no fragment")
    for mutation in chosen:
        text(mutation, ROOT)
    with tempfile.TemporaryDirectory(prefix="ftjax-mutate-") as folder:
        outcomes = run(chosen, pathlib.Path(folder), jobs=given.jobs, limit=given.limit)
    print(table(outcomes))
    return int(any(o.fate != "killed" and not o.mutation.reason for o in outcomes))


def text(mutation: Mutation, root: pathlib.Path) -> str:
    """Return the mutated text of a file under `root`.

    Raises:
      ValueError: the fragment does not stand exactly once in it.
    """
    whole = (root / mutation.file).read_text(encoding="utf-8")
    if (count := whole.count(mutation.old)) != 1:
        raise ValueError(
            f"scripts/mutations.py: {mutation.file}: got {count} times the fragment "
            f"{mutation.old!r}; expected it once; change the list along with the file"
        )
    return whole.replace(mutation.old, mutation.new)


def run(
    mutations: list[Mutation], folder: pathlib.Path, *, jobs: int, limit: float
) -> list[Outcome]:
    """Try mutations in `jobs` copies of the tree under `folder`; `limit` is seconds for each.

    The tests of each are run without it first: tests that fail anyway would notice everything.
    """
    os.environ |= _environment(folder)
    multiprocessing.set_forkserver_preload(PRELOADED)
    trees: queue.Queue = queue.Queue()
    for number in range(jobs):
        trees.put(_copy(folder / str(number)))

    def attempt(mutation: Mutation) -> Outcome:
        tree = trees.get()
        try:
            return _attempt(mutation, tree, limit=limit)
        finally:
            trees.put(tree)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        plain = [Mutation("", "", "", tests) for tests in dict.fromkeys(m.tests for m in mutations)]
        red = {o.mutation.tests: o for o in pool.map(attempt, plain) if o.fate == "killed"}
        rest = [m for m in mutations if m.tests not in red]
        outcomes = [
            Outcome(m, "red", 0.0, red[m.tests].detail) for m in mutations if m.tests in red
        ]
        for outcome in pool.map(attempt, rest):
            print(line(outcome), flush=True)
            outcomes.append(outcome)
    return outcomes


def line(outcome: Outcome) -> str:
    """Show a mutation and its fate in one line."""
    m, short = outcome.mutation, lambda fragment: " ".join(fragment.split())
    head = f"{outcome.fate:9}{outcome.seconds:5.0f} s  {m.file}"
    return f"{head}: {short(m.old)}  ->  {short(m.new) or '(nothing)'}"


def table(outcomes: list[Outcome]) -> str:
    """Count fates by file, and list what was not killed."""
    by_file = collections.defaultdict(collections.Counter)
    for outcome in outcomes:
        by_file[outcome.mutation.file][outcome.fate] += 1
    width = max(map(len, by_file))
    rows = [f"{'file':{width}}  killed  survived"]
    rows += [f"{file:{width}}  {n['killed']:6}  {n['survived']:8}" for file, n in by_file.items()]
    fates = collections.Counter(outcome.fate for outcome in outcomes)
    rows.append(f"{'all':{width}}  {fates['killed']:6}  {fates['survived']:8}")
    for outcome in outcomes:
        if outcome.fate != "killed":
            reason = outcome.mutation.reason or outcome.detail
            rows += [line(outcome), *([f"    {reason}"] if reason else [])]
    return "\n".join(["", *rows])


def _parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="regular expression over file and fragment")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at a time")
    parser.add_argument("--limit", type=float, default=300, help="seconds for the tests of each")
    return parser.parse_args(argv)


def _environment(folder: pathlib.Path) -> dict[str, str]:
    """Return variables that are read when jax is imported, and none that leads to other trees."""
    absent = str(folder / "absent")
    return {
        "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONDONTWRITEBYTECODE": "1", "FTJAX_GOLDEN": absent, "FTJAX_DATA": absent,
    }  # fmt: skip


def _copy(tree: pathlib.Path) -> pathlib.Path:
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.*"):
        if file.is_file():
            shutil.copy(file, tree)
    return tree


def _attempt(mutation: Mutation, tree: pathlib.Path, *, limit: float) -> Outcome:
    """Run the tests in a copy of the tree with the mutation in it, and mend the copy again."""
    start = time.perf_counter()
    before = (tree / mutation.file).read_bytes() if mutation.file else b""
    if mutation.file:
        (tree / mutation.file).write_text(text(mutation, tree), encoding="utf-8")
    child = multiprocessing.get_context("forkserver").Process(
        target=_tests, args=(str(tree), mutation.tests)
    )
    child.start()
    child.join(limit)
    hangs = child.is_alive()
    if hangs:
        os.killpg(child.pid, signal.SIGKILL)  # and the commands that its tests have started
        child.join()
    if mutation.file:
        # As it was copied: the tree that it came from may have changed meanwhile.
        (tree / mutation.file).write_bytes(before)
    fate = "survived" if child.exitcode == PASSED else "killed"
    detail = "" if mutation.file else _detail(tree, mutation.tests, hangs=hangs)
    return Outcome(mutation, fate, time.perf_counter() - start, detail)


def _detail(tree: pathlib.Path, tests: str, *, hangs: bool) -> str:
    """Return why tests without a mutation fail."""
    last = (tree / "output.txt").read_text(errors="replace").strip().splitlines()[-1:]
    return f"{tests}: {'too slow' if hangs else ''.join(last)}"


def _tests(tree: str, tests: str) -> None:
    """Run tests in a tree; this process, a group of its own, ends with pytest's exit code."""
    os.setsid()
    os.chdir(tree)
    sys.path[:] = [tree, *(p for p in sys.path if pathlib.Path(p or ".").resolve() != ROOT)]
    os.environ["PYTHONPATH"] = tree
    with open("output.txt", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        import pytest

        code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *shlex.split(tests)])
    os._exit(int(code))


if __name__ == "__main__":
    sys.exit(main())
