r"""Seconds from the launch to the first step, and from a run's end to the first step of the next.

    python -m scripts.bench_sweep --jobs 4

Runs of the same shapes over the embedded base, which differ in learning rate and seed: a LoRA of
rank 8, batches of 8 x 64, two evaluations before and after. First each is a command of its own, as
`experiments.sweep` launches them with one worker, into an empty cache of compiled programs; then
all are runs of one process, by `experiments.compare`, with a cache of its own. Seconds are the
wall's: a run has ended when its last file is written, and a step when its row is, which is that
of the first step. JSON comes out.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

CONFIG = """
from configs import members_tiny
from ftjax.launch.lib.space import grid


def get_config(arg=None):
    c = members_tiny.get_config(arg)
    c.steps, c.log_every_steps, c.compile_cache = {steps}, 1, {cache!r}
    return c


def sweep():
    return [
        {{"optim.learning_rate": (1 + i) * 1e-3, "seed.data": i}} for i in range({jobs})
    ]
"""
POLL_S = 0.01
ENDS_WITH = "report.html"


class Watch:
    """When the runs in a folder took their first step, and when they ended."""

    def __init__(self, root: pathlib.Path):
        self._root = root
        self.steps: dict[str, float] = {}
        self.ends: dict[str, float] = {}

    def look(self) -> None:
        """Note what is new, at the time of now."""
        now = time.perf_counter()
        for log in self._root.glob("*/metrics.jsonl"):
            own = log.parent
            if own.name not in self.steps and has_stepped(log.read_text(encoding="utf-8")):
                self.steps[own.name] = now
            if (own / ENDS_WITH).is_file():
                self.ends.setdefault(own.name, now)

    def between(self) -> list[float]:
        """Return the seconds from each end to the next first step."""
        firsts, ends = sorted(self.steps.values()), sorted(self.ends.values())
        return [step - end for end, step in zip(ends, firsts[1:], strict=False)]


def has_stepped(text: str) -> bool:
    """Return whether a log has a row of a step."""
    whole = text.rpartition("\n")[0].splitlines()  # the last may be half written
    return any(json.loads(line)["step"] for line in whole)


def run(command: list[str], root: pathlib.Path) -> dict:
    """Run a command that trains in folders of `root`; returns its seconds."""
    watch, start = Watch(root), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with open(root.parent / f"{root.name}.log", "wb") as log:
        os.set_blocking(process.stderr.fileno(), False)
        while process.poll() is None:
            watch.look()
            log.write(process.stderr.read() or b"")
            time.sleep(POLL_S)
        log.write(process.stderr.read() or b"")
    watch.look()
    if process.returncode:
        text = (root.parent / f"{root.name}.log").read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"{' '.join(command)}: did not end well: {text[-600:]}")
    gaps = watch.between()
    return {
        "launch_to_first_step_s": min(watch.steps.values()) - start,
        "end_to_next_first_step_s": statistics.median(gaps) if gaps else None,
        "each": gaps, "all_s": time.perf_counter() - start,
    }  # fmt: skip


def commands(folder: pathlib.Path, *, jobs: int, steps: int) -> dict[str, dict]:
    """Measure the runs as processes of their own, then in one."""
    python, found = [sys.executable, "-m"], {}
    ways = {
        "processes": ["experiments.sweep", "launch", "--option=workers=1"],
        "one process": ["experiments.compare"],
    }
    for (label, own), name in zip(ways.items(), ("apart", "together"), strict=True):
        config, root = folder / f"{name}.py", folder / name
        text = CONFIG.format(steps=steps, jobs=jobs, cache=str(folder / f"cache_{name}"))
        config.write_text(text, encoding="utf-8")
        command = [*python, *own, f"--config={config}", f"--workdir={root}"]
        found[label] = run(command, root)
    return found


def launches(folder: pathlib.Path, *, repeats: int) -> dict:
    """Measure a single run's launch with an empty cache of programs, and with a full one."""
    found, config = {"cold": [], "cached": []}, folder / "apart.py"
    for turn, label in itertools.product(range(repeats), found):
        root = folder / f"launch_{label}_{turn}"
        command = [
            sys.executable, "-m", "experiments.train", f"--config={config}",
            f"--workdir={root / 'run'}", f"--config.compile_cache={folder / f'programs{turn}'}",
        ]  # fmt: skip
        found[label].append(run(command, root)["launch_to_first_step_s"])
    return {label: statistics.median(own) for label, own in found.items()} | {"each": found}


def main() -> None:
    """Print the measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=4, help="runs, at least 2")
    parser.add_argument("--steps", type=int, default=6, help="of each run, at least 2")
    parser.add_argument("--repeats", type=int, default=2, help="launches; 0: none")
    given = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        found = commands(folder, jobs=given.jobs, steps=given.steps)
        if given.repeats:
            found["launch_to_first_step_s"] = launches(folder, repeats=given.repeats)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
