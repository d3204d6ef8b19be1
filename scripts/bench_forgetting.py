r"""Measure what a study saves by running its cells in one process, and that nothing else changes.

    python -m scripts.bench_forgetting --workdir runs/bench --cells 3
    python -m scripts.bench_forgetting --config configs/forgetting_tiny.py --workdir runs/bench

Cells are those of the study's first method at its first rate, a seed each. They run twice: every
stage in a process of its own, as a script around `experiments.train` would, and all of them in one
process that shares the base, the tokenizer, encoded data, evaluations and compiled programs. The
scores of every example and the weights of every stage must be equal to the bit. Compiled programs
are on the disk in both, as for a user: run it twice, and believe the second.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import subprocess
import sys
import time

MODULE = "scripts.bench_forgetting"


def main() -> None:
    """Run the cells in both ways, compare them and print seconds."""
    given = parser().parse_args()
    folder = pathlib.Path(given.workdir)
    chosen = read(given.config, given.cells)
    if given.stage is not None:
        run(chosen, folder, only=given.stage)
        return
    if given.shared:
        run(chosen, folder)
        return
    names = [stage.workdir.relative_to(folder) for stage in every_stage(chosen, folder)]
    apart, together = folder / "processes", folder / "shared"
    commands = {
        apart: [["--stage", str(number)] for number in range(len(names))],
        together: [["--shared"]],
    }
    seconds = {where: sum(timed(given, where, own) for own in each)
               for where, each in commands.items()}  # fmt: skip
    compare(apart, together, names)
    for where, total in seconds.items():
        print(
            f"{where.name:10} {total / given.cells:7.1f} s a cell {total / len(names):7.1f} a stage"
        )
    print(f"{seconds[apart] / seconds[together]:.2f} times as fast; scores and weights are equal")


def parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--config", default="configs/forgetting_smoke.py", help="of a study")
    p.add_argument("--workdir", required=True, help="new or empty directory")
    p.add_argument("--cells", type=int, default=3, help="how many")
    p.add_argument("--stage", type=int, help="run this one alone: what its process is told")
    p.add_argument("--shared", action="store_true", help="run all: what their process is told")
    return p


def read(config: str, cells: int):
    """Read a study and cut it down to so many cells that differ in their seed."""
    from ftjax.studies import study

    chosen = study.read(config)
    method = next(iter(chosen.methods))
    return dataclasses.replace(
        chosen, methods={method: chosen.methods[method]}, controls=(), changes=(),
        rates={method: chosen.rates[method][:1]}, seeds=tuple(range(cells)),
        orders=chosen.orders[:1],
    )  # fmt: skip


def every_stage(chosen, folder: pathlib.Path) -> list:
    """List the stages of all cells in order."""
    from ftjax.studies import stages

    return [own for cell in stages.cells(chosen) for own in stages.stages(chosen, cell, folder)]


def run(chosen, folder: pathlib.Path, *, only: int | None = None) -> None:
    """Run one stage alone, or all of them with shared parts."""
    from experiments import sequential
    from ftjax.core import compile_cache, device

    # As the commands start.
    compile_cache.use("auto")
    device.reuse_memory()
    with sequential.sharing(chosen) if only is None else contextlib.nullcontext() as shared:
        for number, stage in enumerate(every_stage(chosen, folder)):
            if only in (None, number):
                sequential.end(stage, shared)


def timed(given: argparse.Namespace, where: pathlib.Path, own: list[str]) -> float:
    """Run a process to its end; returns its seconds."""
    where.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", MODULE, "--config", given.config, "--cells",
               str(given.cells), "--workdir", str(where), *own]  # fmt: skip
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


if __name__ == "__main__":
    main()
