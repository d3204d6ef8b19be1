r"""Rehearse Llama 3.1 in two sizes, tuned in three ways, on four kinds of TPU that are not here.

    python -m scripts.bench_rehearse --cells 8b-lora-v5e,8b-qlora-v5e --out docs/scale.md
    python -m scripts.bench_rehearse --cells all --out docs/scale.md     # hours of processor time

A cell is a command of `experiments.rehearse` in a process of its own, over
configs/sft_llama3_8b.py: one row of 4096 tokens a device in one microbatch, weights over all
devices (fsdp). Full fine-tuning has float32 weights and moments. What was found is kept in
`--results`, where later calls find it; `--again` compiles it anew. The table of all cells replaces
what is between the two marks in the document; without `--out` it is printed.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from scripts import runs

NAME = "scripts/bench_rehearse.py"
CONFIG = "configs/sft_llama3_8b.py"
GIB = 2**30
SIZES = {"8b": "llama3.1-8b", "70b": "llama3.1-70b"}
WAYS = {
    "lora": {},
    "full": {"adapter.name": "", "model.param_dtype": "float32"},
    "qlora": {"model.quantize.name": "nf4"},
}
# The smallest slices that people rent for the size, and not the smallest that would do.
TOPOLOGIES = {
    "8b": {"v5e": "v5e-16", "v5p": "v5p-16", "v6e": "v6e-16", "tpu7x": "tpu7x-16"},
    "70b": {"v5e": "v5e-64", "v5p": "v5p-64", "v6e": "v6e-64", "tpu7x": "tpu7x-64"},
}
CELLS = ["-".join(own) for own in itertools.product(SIZES, WAYS, TOPOLOGIES["8b"])]
HEADS = ("model", "tuned by", "on", "HBM a device", "fits", "sent a device", "step", "MFU",
         "bound by", "compile")  # fmt: skip


def command(cell: str, out: pathlib.Path) -> list[str]:
    """Make the command that rehearses a cell and writes what it finds as JSON."""
    from ftjax.run import topology

    size, way, kind = cell.split("-")
    name = TOPOLOGIES[size][kind]
    keys = {
        "model.base": "", "model.preset": SIZES[size], "accumulate": 1,
        "batch_size": topology.read(name).count, "data.max_tokens": 4096, **WAYS[way],
    }  # fmt: skip
    given = [f"--config.{key}={value}" for key, value in keys.items()]
    flags = [f"--topology={name}", f"--json={out}", "--suggest=0"]
    return [sys.executable, "-m", "experiments.rehearse", f"--config={CONFIG}", *given, *flags]


def rehearse(cell: str) -> dict:
    """Rehearse a cell; returns what the table shows of it.

    Raises:
      RuntimeError: the command failed; with its last lines.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, start = pathlib.Path(folder) / "found.json", time.perf_counter()
        done = subprocess.run(command(cell, out), capture_output=True, text=True, check=False)
        if not out.is_file():
            raise RuntimeError(f"{cell}: {done.stderr[-600:]}")
        found = json.loads(out.read_text(encoding="utf-8"))
    line = found.get("roofline") or {}
    own = {name: found["hbm"].get(name) for name in ("needed", "capacity", "temporaries")}
    own |= {name: line.get(name) for name in ("step_s", "mfu", "bound")}
    sent = sum(each["bytes"] for each in found["collectives"])
    return own | {
        "topology": found["topology"], "fits": found["fits"], "sent": sent,
        "compile_s": found["seconds"]["compile"], "wall_s": time.perf_counter() - start,
    }  # fmt: skip


def table(results: dict[str, dict]) -> str:
    """Write all cells; those without a result say so."""
    return runs.markdown(HEADS, (_row(cell, results.get(cell)) for cell in CELLS))


def _row(cell: str, own: dict | None) -> list[str]:
    size, way, kind = cell.split("-")
    first = [size.upper(), way, TOPOLOGIES[size][kind]]
    if own is None:
        return [*first, "not run", *[""] * (len(HEADS) - 4)]
    gib = lambda value: "?" if value is None else f"{value / GIB:.2f} GiB"
    memory = f"{gib(own['needed'])} of {gib(own['capacity'])}"
    compiled = f"{own['compile_s']:.0f} s"
    if own["step_s"] is None:
        return [*first, memory, "no", "", "", "", "", compiled]
    step, share = f"{own['step_s']:.2f} s", f"{own['mfu']:.0%}"
    fits = "yes" if own["fits"] else "no"
    return [*first, memory, fits, gib(own["sent"]), step, share, own["bound"], compiled]


def chosen(text: str) -> list[str]:
    """Read which cells to run: their names, `all` or nothing.

    Raises:
      ValueError: one of them is not a cell.
    """
    names = CELLS if text == "all" else [name for name in text.split(",") if name]
    if unknown := sorted(set(names) - set(CELLS)):
        raise ValueError(f"--cells: got {unknown}; expected some of {', '.join(CELLS)}, or all")
    return names


def main(argv: list[str] | None = None) -> None:
    """Rehearse, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default="", help="names such as 8b-lora-v5e, or all")
    parser.add_argument("--results", default="docs/rehearsed.json", help="what was found so far")
    parser.add_argument("--again", action="store_true", help="compile what is there already")
    parser.add_argument("--out", default="", help="the document of the table")
    given = parser.parse_args(argv)
    path = pathlib.Path(given.results)
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for cell in chosen(given.cells):
        if cell in results and not given.again:
            continue
        results[cell] = rehearse(cell)
        # After each cell: the next may take an hour.
        path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    runs.publish(table(results), given.out, name=NAME)


if __name__ == "__main__":
    main()
