r"""Evaluate a run: what it taught its base, and what it made it forget.

    python -m experiments.evaluate --workdir runs/mine
    python -m experiments.evaluate --workdir runs/mine --checkpoint best --output scores.json
    python -m experiments.evaluate --workdir runs/mine --lm_eval arc_easy,hellaswag

Runs the evaluations of the run's config on its base (adapters off) and on a checkpoint, prints a
table with paired 95 % intervals, and writes all numbers to DIR/evals/compare_<step>.json.

With --lm_eval the tasks are those of EleutherAI's lm-evaluation-harness (`pip install
'ftjax[lm_eval]'`), in place of the config's; the numbers go to DIR/evals/lm_eval_<step>.json.
"""

import pathlib

from absl import app, flags

from experiments import cli

WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step")
MESH = cli.define_mesh()
OUTPUT = flags.DEFINE_string("output", "", "JSON file; in DIR/evals, see above, if not given")
TASKS = flags.DEFINE_list("lm_eval", [], "tasks of lm-evaluation-harness; `*` stands for anything")
LIMIT = flags.DEFINE_integer("lm_eval_limit", None, "the first documents of a task", lower_bound=1)
FEWSHOT = flags.DEFINE_integer(
    "lm_eval_num_fewshot", None, "examples in a prompt; the task's number if not given",
    lower_bound=0,
)  # fmt: skip
INCLUDE = flags.DEFINE_string("lm_eval_include", "", "folder of YAML files of further tasks")
CHAT = flags.DEFINE_bool("lm_eval_chat", False, "prompts as turns of the run's chat template")
BATCH_SIZE = flags.DEFINE_integer("lm_eval_batch_size", 8, "sequences at a time", lower_bound=1)


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    check_flags()
    cli.start()
    from ftjax.run import workdirs  # jax: slow to import

    with workdirs.read(WORKDIR.value) as workdir:
        evaluate(workdir)


def check_flags() -> None:
    """Refuse what would not be honoured."""
    for flag in (LIMIT, FEWSHOT, INCLUDE, CHAT, BATCH_SIZE):
        if flag.present and not TASKS.value:
            raise app.UsageError(
                f"--{flag.name}: got {flag.value!r} without --lm_eval; expected its tasks"
            )


def evaluate(workdir: pathlib.Path) -> None:
    """Compare a checkpoint with its base; print the table and write the numbers."""
    from ftjax.core import files, processes
    from ftjax.run.artifacts import Artifacts

    step, shown, record = of_harness(workdir) if TASKS.value else of_config(workdir)
    if not processes.is_first():
        return
    print(shown)
    place = Artifacts(workdir)
    default = place.harness(step) if TASKS.value else place.comparison(step)
    path = pathlib.Path(OUTPUT.value or default)
    files.write_json(path, record)
    print(f"\nAll numbers: {path}")


def load(workdir: pathlib.Path):
    """Load the run and the weights of the checkpoint."""
    from ftjax.run import reader

    return reader.load(workdir, checkpoint=CHECKPOINT.value, sizes=cli.mesh_of(MESH.value))


def of_config(workdir: pathlib.Path) -> tuple[int, str, dict]:
    """Run the evaluations of the run's config: the step, the table, and all numbers."""
    from ftjax.run import comparison
    from ftjax.run import evaluation as evaluating

    run = load(workdir)
    evaluation = evaluating.build(run.parts)
    if not evaluation.evaluators:
        raise app.UsageError(
            f"--workdir: got {WORKDIR.value!r}, whose config has no evals; expected one at least"
        )
    found = comparison.compare(evaluation.evaluators, run.base, run.params)
    options = dict(step=run.step, stated=evaluation.stated)
    shown = comparison.text(found, evaluation.groups, **options)
    return run.step, shown, comparison.record(found, evaluation.groups, **options)


def of_harness(workdir: pathlib.Path) -> tuple[int, str, dict]:
    """Run tasks of lm-evaluation-harness: the step, the table, and all numbers."""
    from ftjax.run import harness

    chosen = harness.choose(TASKS.value, include=INCLUDE.value)
    found = harness.compare(
        load(workdir), chosen, limit=LIMIT.value, num_fewshot=FEWSHOT.value, chat=CHAT.value,
        batch_size=BATCH_SIZE.value,
    )  # fmt: skip
    return found.step, harness.text(found), harness.record(found)


if __name__ == "__main__":
    cli.run(main)
