r"""Evaluate a run: what it taught its base, and what it made it forget.

    python -m experiments.evaluate --workdir runs/mine
    python -m experiments.evaluate --workdir runs/mine --checkpoint best --output scores.json

Runs the evaluations of the run's config on its base (adapters off) and on a checkpoint, prints a
table with paired 95 % intervals, and writes all numbers to DIR/evals/compare_<step>.json.
"""

import pathlib

from absl import app, flags

from experiments import cli

WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step")
MESH = cli.define_mesh()
OUTPUT = flags.DEFINE_string("output", "", "JSON file; DIR/evals/compare_<step>.json if not given")


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    cli.start()
    from ftjax.run import workdirs  # jax: slow to import

    with workdirs.read(WORKDIR.value) as workdir:
        evaluate(workdir)


def evaluate(workdir: pathlib.Path) -> None:
    """Compare a checkpoint with its base; print the table and write the numbers."""
    from ftjax.core import files, processes
    from ftjax.run import artifacts, comparison, reader
    from ftjax.run import evaluation as evaluating

    run = reader.load(workdir, checkpoint=CHECKPOINT.value, sizes=cli.mesh_of(MESH.value))
    evaluation = evaluating.build(run.parts)
    if not evaluation.evaluators:
        raise app.UsageError(
            f"--workdir: got {WORKDIR.value!r}, whose config has no evals; expected one at least"
        )
    found = comparison.compare(evaluation.evaluators, run.base, run.params)
    if not processes.is_first():
        return
    options = dict(step=run.step, stated=evaluation.stated)
    print(comparison.text(found, evaluation.groups, **options))
    path = pathlib.Path(OUTPUT.value or artifacts.Artifacts(workdir).comparison(run.step))
    files.write_json(path, comparison.record(found, evaluation.groups, **options))
    print(f"\nAll numbers: {path}")


if __name__ == "__main__":
    cli.run(main)
