r"""Measure a training step of every adapter against LoRA of the same rank and full fine-tuning.

    python -m scripts.bench_adapters --rank 8
    python -m scripts.bench_adapters --dim 1024 --steps 5 --methods lora,dora,vera --json out.json
    python -m scripts.bench_adapters --dim 1024 --layers 1 --batch 2 --out docs/adapters.md

All methods that `ftjax/adapters` holds adapt all linear maps of one float32 llama. The settings of
a method are its EXAMPLE's, whose ranks, alphas, blocks and numbers of frequencies grow with
`--rank` as LoRA's rank does; see `ftjax/adapters/multi/catalogue.py`. The steps run in turn in one
process, so that whatever else the machine does slows all alike; the median counts. FLOPs are XLA's
count for the compiled step of one layer (it counts loops once), memory is what XLA plans for the
step and its arguments. Prints a table; `--json` keeps the numbers, `--out` puts the ratios into a
document, between two marks.
"""

import argparse
import json
import statistics
import time

from scripts import bench_train, runs

NAME = "scripts/bench_adapters.py"
FULL, LORA = "full", "lora"
COLUMNS = ("trainable", "flops", "seconds", "bytes")


class Subject:
    """A compiled step with its state, which every call moves on."""

    def __init__(self, method, shape: dict):
        step, create = bench_train.training(method, shape)
        self.state, self.frozen = create()
        self.batch = bench_train.batch_of(shape)
        self.program = step.lower(self.state, self.frozen, self.batch).compile()

    def share(self, model) -> None:
        """Use these arrays as the frozen base, which all methods draw alike."""
        self.frozen = self.frozen | {"model": model}

    def seconds(self) -> float:
        """Time one step."""
        import jax

        start = time.perf_counter()
        self.state, metrics = self.program(self.state, self.frozen, self.batch)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start

    def bytes(self) -> int:
        """Count the memory of the step: arguments, results and what it keeps between."""
        plan = self.program.memory_analysis()
        own = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
        return own - plan.alias_size_in_bytes

    def trainable(self) -> int:
        """Count the numbers that train."""
        from ftjax.core import tree

        return tree.size_of(self.state.params)


def flops(method, shape: dict) -> float:
    """Count the operations of a step of one layer, unrolled; nothing runs."""
    import jax

    one = shape | dict(layers=1)
    step, create = bench_train.training(method, one, scan=False)
    program = step.lower(*jax.eval_shape(create), bench_train.batch_of(one)).compile()
    return program.cost_analysis()["flops"]


def measure(chosen: dict, shape: dict, *, steps: int, warmup: int) -> dict[str, dict]:
    """Measure the methods, which are initialisers by name, or None for full fine-tuning."""
    subjects, times, base = {}, {name: [] for name in chosen}, None
    for name, method in chosen.items():
        subjects[name] = Subject(method, shape)
        if method is not None:
            base = base or subjects[name].frozen["model"]
            subjects[name].share(base)
    for _ in range(warmup + steps):
        for name, subject in subjects.items():
            times[name].append(subject.seconds())
    return {
        name: {
            "trainable": subject.trainable(),
            "flops": flops(chosen[name], shape),
            "seconds": statistics.median(times[name][warmup:]),
            "bytes": subject.bytes(),
        }
        for name, subject in subjects.items()
    }


def table(found: dict[str, dict]) -> str:
    """Lay the measurements out, each also as a multiple of LoRA's and of full fine-tuning's."""
    heads = ["method", "trainable"]
    for column in COLUMNS[1:]:
        heads += [column, *(f"/{other}" for other in (LORA, FULL) if other in found)]
    rows = [heads]
    for name, own in found.items():
        row = [name, f"{own['trainable']:,}"]
        for column in COLUMNS[1:]:
            row.append(f"{own[column]:.4g}")
            others = (found[other][column] for other in (LORA, FULL) if other in found)
            row += [f"{own[column] / other:.2f}" for other in others]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = lambda row: "  ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True))
    return "\n".join(map(line, rows))


def ratios(found: dict[str, dict]) -> str:
    """Write the multiples of LoRA's and of full fine-tuning's in Markdown."""
    heads, others = ["method", "trainable"], [other for other in (LORA, FULL) if other in found]
    heads += [f"{column} / {other}" for column in COLUMNS[1:] for other in others]
    rows = [
        (name, f"{own['trainable']:,}",
         *(f"{own[c] / found[o][c]:.2f}" for c in COLUMNS[1:] for o in others))
        for name, own in found.items()
    ]  # fmt: skip
    return runs.markdown(heads, rows)


# -- command ---------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--methods", default="", help="names, comma-separated; all if not given")
    p.add_argument("--rank", type=int, default=8, help="of LoRA; other methods' sizes follow")
    p.add_argument("--dim", type=int, default=256, help="width of the model")
    p.add_argument("--layers", type=int, default=2, help="layers of the model")
    p.add_argument("--batch", type=int, default=4, help="rows of 256 tokens")
    p.add_argument("--steps", type=int, default=20, help="steps of each method that count")
    p.add_argument("--warmup", type=int, default=2, help="steps before them")
    p.add_argument("--json", default="", help="file to write the numbers to")
    p.add_argument("--out", default="", help="Markdown file that the ratios go into")
    return p


def shape_of(given: argparse.Namespace) -> dict:
    """Make the shape of the model and its batches."""
    heads = max(given.dim // 64, 1)
    return dict(
        dim=given.dim, layers=given.layers, heads=heads, kv_heads=heads, ffw=4 * given.dim,
        vocab=1024, batch=given.batch,
    )  # fmt: skip


def choose(text: str, names: list[str]) -> list[str]:
    """Read the flag of methods.

    Raises:
      ValueError: there is no such method.
    """
    chosen = text.split(",") if text else names
    if unknown := sorted(set(chosen) - set(names)):
        raise ValueError(f"--methods: got {unknown}; expected some of {', '.join(names)}")
    return chosen


def main() -> None:
    """Print the table."""
    from ftjax.adapters.multi import catalogue
    from ftjax.core import device

    given = parser().parse_args()
    device.reuse_memory()
    shape, names = shape_of(given), choose(given.methods, [*catalogue.names(), FULL])
    hyper = {n: catalogue.example(n, rank=given.rank) for n in names if n != FULL}
    made = {n: catalogue.modules()[n].make(**own) for n, own in hyper.items()}
    chosen = {n: made.get(n) for n in names}
    found = measure(chosen, shape, steps=given.steps, warmup=given.warmup)
    print(table(found))
    if given.out:
        runs.publish(ratios(found), given.out, name=NAME)
    if given.json:
        rows = {name: own | {"settings": hyper.get(name)} for name, own in found.items()}
        record = dict(shape=shape, rank=given.rank, methods=rows)
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=2)


if __name__ == "__main__":
    main()
