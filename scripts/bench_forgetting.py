r"""Measure what a study saves by running its cells in one process, and that nothing else changes.

    python -m scripts.bench_forgetting --workdir runs/bench --cells 18
    python -m scripts.bench_forgetting --config configs/forgetting_tiny.py --workdir runs/bench
    python -m scripts.bench_forgetting --method lora --cells 8 --workdir runs/bench

Cells are those of one of the study's methods at its first rate, a seed each. They run twice: every
stage in a process of its own, as a script around `experiments.train` would, and all of them in one
process that shares the base, the tokenizer, encoded data, evaluations and compiled programs. The
scores of every example and the weights of every stage must be equal to the bit. Cells of one stage
each whose method has an adapter run once more, as the members of one program, which must have the
same scores within 1e-5 of each. Compiled programs are on the disk, as for a user: run it twice, and
believe the second. The one process starts once, so give it as many cells as a study has.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import subprocess
import sys
import time

import numpy as np

MODULE = "scripts.bench_forgetting"
CLOSE = 1e-5  # of a score: what a member's program computes is rounded in another order


def main() -> None:
    """Run the cells in both ways, compare them and print seconds."""
    given = parser().parse_args()
    folder = pathlib.Path(given.workdir)
    chosen = read(given.config, given.cells, method=given.method)
    if given.stage is not None:
        run(chosen, folder, only=given.stage)
        return
    if given.way:
        {"shared": run, "members": run_members}[given.way](chosen, folder)
        return
    stages = every_stage(chosen, folder)
    names = [stage.workdir.relative_to(folder) for stage in stages]
    ways = {
        "processes": [["--stage", str(number)] for number in range(len(names))],
        "shared": [["--way", "shared"]],
    }
    if is_members(chosen, stages):
        ways["members"] = [["--way", "members"]]
    seconds = {way: sum(timed(given, folder / way, own) for own in each)
               for way, each in ways.items()}  # fmt: skip
    compare(folder / "processes", folder / "shared", names)
    for way, total in seconds.items():
        print(f"{way:10} {total / given.cells:7.1f} s a cell {total / len(names):7.1f} a stage")
    times = seconds["processes"] / seconds["shared"]
    print(f"shared: {times:.2f} times as fast; scores and weights are equal")
    if "members" in ways:
        off = difference(folder / "processes", folder / "members", names)
        times = seconds["processes"] / seconds["members"]
        print(f"members: {times:.2f} times as fast; scores are equal within {off:.1g}")


def parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--config", default="configs/forgetting_smoke.py", help="of a study")
    p.add_argument("--workdir", required=True, help="new or empty directory")
    p.add_argument("--method", help="of the study; the first, if not given")
    p.add_argument("--cells", type=int, default=3, help="how many")
    p.add_argument("--stage", type=int, help="run this one alone: what its process is told")
    p.add_argument(
        "--way", choices=("shared", "members"), help="run all so: what its process is told"
    )
    return p


def read(config: str, cells: int, *, method: str | None = None):
    """Read a study and cut it down to so many cells that differ in their seed.

    Raises:
      SystemExit: the study has no such method.
    """
    from ftjax.studies import study

    chosen = study.read(config)
    method = method or next(iter(chosen.methods))
    if method not in chosen.methods:
        known = ", ".join(chosen.methods)
        raise SystemExit(f"--method: got {method}; expected one of {known}, those of {config}")
    return dataclasses.replace(
        chosen, methods={method: chosen.methods[method]}, controls=(), changes=(),
        rates={method: chosen.rates[method][:1]}, seeds=tuple(range(cells)),
        orders=chosen.orders[:1],
    )  # fmt: skip


def every_stage(chosen, folder: pathlib.Path) -> list:
    """List the stages of all cells in order."""
    from ftjax.studies import stages

    return [own for cell in stages.cells(chosen) for own in stages.stages(chosen, cell, folder)]


def is_members(chosen, stages: list) -> bool:
    """Say whether the stages can be members: of one adapter, from one base, none before another."""
    return len(chosen.tasks) == 1 and bool(stages[0].settings.adapter.get("name"))


def run_members(chosen, folder: pathlib.Path) -> None:
    """Run all stages as the members of one program, each in its own directory as ever."""
    from experiments import members
    from ftjax.run import member_settings

    start()
    found = {str(stage.workdir.relative_to(folder)): stage.settings
             for stage in every_stage(chosen, folder)}  # fmt: skip
    member_settings.check(found)
    listed = member_settings.Listed([{"seed": seed} for seed in chosen.seeds])
    members.run(found, listed, folder)


def start() -> None:
    """Do what the commands do before they train."""
    from ftjax.core import compile_cache, device

    compile_cache.use("auto")
    device.reuse_memory()


def run(chosen, folder: pathlib.Path, *, only: int | None = None) -> None:
    """Run one stage alone, or all of them with shared parts."""
    from experiments import sequential

    start()
    with sequential.sharing(chosen) if only is None else contextlib.nullcontext() as shared:
        for number, stage in enumerate(every_stage(chosen, folder)):
            if only in (None, number):
                sequential.end(stage, shared)


def timed(given: argparse.Namespace, where: pathlib.Path, own: list[str]) -> float:
    """Run a process to its end; returns its seconds."""
    where.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", MODULE, "--config", given.config, "--cells",
               str(given.cells), "--workdir", str(where), *own]  # fmt: skip
    command += ["--method", given.method] if given.method else []
    start = time.perf_counter()
    with open(where / "log.txt", "a", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return time.perf_counter() - start


def compare(apart: pathlib.Path, together: pathlib.Path, names: list[pathlib.Path]) -> None:
    """Check that both have the same scores and weights, and all pages.

    Raises:
      SystemExit: naming the file that differs or lacks.
    """
    for name in names:
        for where in (apart, together):
            if not (where / name / "report.html").is_file():
                raise SystemExit(f"{where / name}: no report.html")
        own = sorted((apart / name).glob("evals/*.npz")) + sorted(
            (apart / name).glob("export/*.s*")
        )
        for path in own:
            other = together / path.relative_to(apart)
            if not other.is_file() or other.read_bytes() != path.read_bytes():
                raise SystemExit(f"{path} and {other} differ")


def difference(apart: pathlib.Path, together: pathlib.Path, names: list[pathlib.Path]) -> float:
    """Return the largest difference of any score of any example, as a part of that score.

    Raises:
      SystemExit: it is more than rounding, or a file of scores lacks; naming the file.
    """
    largest = 0.0
    for path in [path for name in names for path in sorted((apart / name).glob("evals/*.npz"))]:
        other = together / path.relative_to(apart)
        if not other.is_file():
            raise SystemExit(f"{other}: no such file")
        with np.load(path) as own, np.load(other) as theirs:
            off = max(np.max(np.abs(own[key] - theirs[key]) / np.maximum(np.abs(own[key]), 1))
                      for key in own if np.issubdtype(own[key].dtype, np.floating))  # fmt: skip
        largest = max(largest, float(off))
        if not off <= CLOSE:
            raise SystemExit(f"{other}: scores are off by {off:.3g}; expected at most {CLOSE:g}")
    return largest


if __name__ == "__main__":
    main()
