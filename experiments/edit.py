r"""Edit the weights of a finished run, without a step of training, and measure what that changes.

    python -m experiments.edit --workdir runs/full --edit interpolate --amounts 0,0.25,0.5,0.75,1
    python -m experiments.edit --workdir runs/lora --edit dial --amounts 0,0.5,1
    python -m experiments.edit --workdir runs/a --edit soup --other runs/b --amounts 0.5
    python -m experiments.edit --workdir runs/a --edit interpolate --other runs/a@100 --amounts 0.5
    python -m experiments.edit --workdir runs/full --edit reduce_intruders --amounts 0.75 --out DIR

Fine-tuning often goes further than it has to: part of the way back old abilities return before new
ones leave. The run's own evaluations are made on its base and at every amount, and printed with
paired 95 % intervals; all numbers go to DIR/evals/edit_<edit>_<step>.json. `--out` writes the model
of one amount, adapters merged. Edits, amounts and what others are: `ftjax/run/editing.py`.
"""

import math
import pathlib

from absl import app, flags

from experiments import cli

WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run", required=True)
EDIT = flags.DEFINE_string(
    "edit", None, "interpolate, dial, soup, ties, dare or reduce_intruders", required=True
)
AMOUNTS = flags.DEFINE_list("amounts", None, "numbers, such as 0,0.5,1", required=True)
OTHER = flags.DEFINE_multi_string("other", [], "DIR or DIR@CHECKPOINT of another run; repeated")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step")
SEED = flags.DEFINE_integer("seed", 0, "of DARE's draw")
OUT = flags.DEFINE_string("out", "", "directory to write the edited model to, new or empty")
MESH = cli.define_mesh()


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    amounts = read_amounts(AMOUNTS.value)
    if OUT.value and len(amounts) != 1:
        raise app.UsageError(f"--out: got it with {len(amounts)} amounts; expected one to write")
    cli.start()
    from ftjax.run import editing, workdirs

    editing.check(EDIT.value, len(OTHER.value))
    with workdirs.read(WORKDIR.value) as workdir:
        edit(workdir, amounts)


def edit(workdir: pathlib.Path, amounts: list[float]) -> None:
    """Edit the weights by each amount, measure, and write one of them to --out.

    Raises:
      UsageError: the run has no evaluations.
    """
    from ftjax.core import processes
    from ftjax.run import editing, export, reader
    from ftjax.run import evaluation as evaluating

    run = reader.load(workdir, checkpoint=CHECKPOINT.value, sizes=cli.mesh_of(MESH.value))
    others = [load_other(text, run.parts.mesh) for text in OTHER.value]
    own = dict(edit=EDIT.value, others=others, seed=SEED.value)
    if OUT.value:
        params = editing.edited(run, EDIT.value, amounts[0], others=others, seed=SEED.value)
        export.write(run.parts, params, pathlib.Path(OUT.value), form="model")
    evaluation = evaluating.build(run.parts)
    if not evaluation.evaluators:
        raise app.UsageError(
            f"--workdir: got {WORKDIR.value!r}, whose config has no evals; expected one at least"
        )
    found = editing.measure(run, evaluation.evaluators, amounts=amounts, **own)
    if processes.is_first():
        report(found, run, evaluation, workdir)


def report(found, run, evaluation, workdir: pathlib.Path) -> None:
    """Print the table of all amounts, and write their numbers."""
    from ftjax.core import files
    from ftjax.report import table as tables
    from ftjax.run import artifacts, comparison

    columns = {f"{amount:g}": each for amount, each in found.items()}
    groups, stated = evaluation.groups, evaluation.stated
    print(tables.table_text(comparison.side_by_side(columns, groups, stated=stated)))
    path = artifacts.Artifacts(workdir).edit(EDIT.value, run.step)
    record = lambda one: comparison.record(one, groups, step=run.step, stated=stated)
    shown = {"edit": EDIT.value, "others": OTHER.value, "seed": SEED.value}
    files.write_json(
        path, shown | {"amounts": {name: record(one) for name, one in columns.items()}}
    )
    print(f"\nAll numbers: {path}" + (f"\nThe model: {OUT.value}" if OUT.value else ""))


def read_amounts(texts: list[str]) -> list[float]:
    """Read the amounts.

    Raises:
      ValueError: one is no finite number, or comes twice.
    """
    try:
        found = [float(text) for text in texts]
    except ValueError:
        found = []
    if not found or len(set(found)) < len(found) or not all(map(math.isfinite, found)):
        raise ValueError(
            f"--amounts: got {','.join(texts)!r}; expected numbers, each once, such as 0,0.5,1"
        )
    return found


def load_other(text: str, mesh):
    """Load DIR or DIR@CHECKPOINT."""
    from ftjax.run import reader, workdirs

    directory, at, checkpoint = text.rpartition("@")
    if not at:
        directory, checkpoint = text, "latest"
    with workdirs.read(directory) as workdir:
        return reader.load(workdir, checkpoint=checkpoint, mesh=mesh)


if __name__ == "__main__":
    cli.run(main)
