r"""Teach tasks one after the other by several methods, and compare what each made forget.

    python -m experiments.sequential --config configs/forgetting_smoke.py --workdir runs/forgetting

The config file has, besides `get_config(arg)`, which gives one stage, a function `study()`: tasks,
orders, how a stage starts from the one before (carry), methods, the learning rates of each, seeds,
and the score at which methods are compared; see `ftjax/studies/study.py`. What stands behind the
file name goes to every stage.

A cell is a method at a rate with a seed in one order: a sequence of runs in DIR/cells/<cell>, each
as `experiments.train` leaves it. Every task and every probe is evaluated after every stage, those
to come too. A cell whose loss is no number is marked so, and the others go on. Cells share what is
the same: the base's weights, tokenizer, encoded data, evaluations and compiled programs.

DIR gets matrix.npz, the scores of every example by cell, stage and evaluation; report.json; and
report.html. A DIR that holds a part of the study goes on where it stopped, and ends with the same
matrix, byte for byte.

A long study can be read before it has ended: --methods 'lora*,oft' runs those alone, and the
first, which the others are compared with, and reports on them. Their cells are the same ones, which
the whole study finds done.
"""

import contextlib
import pathlib
import sys
from typing import NamedTuple

from absl import app, flags

from experiments import cli, online, train


class Flags(NamedTuple):
    """The flags of this command."""

    runs: cli.RunsFlags
    methods: flags.FlagHolder[list[str]]


def define() -> Flags:
    """Define the flags; not at import, since one process may import several commands."""
    text = "run and report these alone, by name or pattern, and the study's first method"
    return Flags(cli.define_runs("study"), flags.DEFINE_list("methods", [], text))


def main(argv: list[str], given: Flags) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    cli.start()
    from ftjax.core import processes
    from ftjax.run import workdirs
    from ftjax.studies import study

    chosen = study.with_methods(study.read(given.runs.config.value), given.methods.value)
    with workdirs.opened(given.runs.workdir.value) as folder:
        if run(chosen, folder) and processes.is_first():
            report(chosen, folder)


def run(chosen, folder: pathlib.Path) -> bool:
    """Run all stages of all cells that have not ended; returns whether none was stopped."""
    from ftjax.studies import baseline, stage_changes, stages

    stages.check(chosen, folder)  # of every method, before the first one runs
    cells = stages.cells(chosen)
    with sharing(chosen) as shared:
        # The control without training: what every cell starts from, and is compared with.
        baseline.evaluate(chosen, folder, shared=shared)
        measure = stage_changes.Changes(chosen, folder, shared=shared)
        measure.base()
        for number, cell in enumerate(cells, 1):
            for stage in stages.stages(chosen, cell, folder):
                if (outcome := stage.outcome()) is None:
                    where = f"{cell.label} ({number} of {len(cells)}): {stage.task}"
                    sys.stdout.write(f"\n== {where}\n")
                    sys.stdout.flush()
                    outcome = end(stage, shared)
                else:
                    draw(stage, shared)
                if outcome is None:
                    return False  # stopped by a signal; the next call goes on
                if outcome.diverged:
                    break  # what would come next has nothing to start from
                measure(stage)
    return True


@contextlib.contextmanager
def sharing(chosen):
    """Make what the stages of a study share; when the context ends, all their pages are there."""
    from ftjax.report.pages import Pages
    from ftjax.run.shared import Shared
    from ftjax.studies import stages

    with Pages() as pages:
        yield Shared(base=stages.base_of(chosen), pages=pages)


def draw(stage, shared) -> None:
    """Draw the page of a stage that has ended, where a kill came before it was drawn."""
    from ftjax.core import processes
    from ftjax.run.artifacts import Artifacts

    own = Artifacts(stage.workdir)
    if processes.is_first() and own.report_job.is_file():
        shared.pages.draw(own.report, own.report_job)


def end(stage, shared):
    """Run a stage to its end; returns its outcome, None where a signal has stopped it."""
    from ftjax.core import errors

    if shared and shared.pages:
        shared.pages.prepare()
    # A stage with a rollout learns from its own samples.
    main = online.train if stage.settings.rollout else train.train
    try:
        if not main(stage.settings, stage.workdir, shared=shared).has_ended:
            return None
    except FloatingPointError as error:
        if not errors.is_message(error):
            raise
        sys.stdout.write(f"diverged: {error}\n")
        return stage.end(diverged=str(error))
    return stage.end()


def report(chosen, folder: pathlib.Path) -> None:
    """Write the matrix and the report of a study all of whose cells have ended."""
    from ftjax.core import files
    from ftjax.report import study_page
    from ftjax.studies import numbers, outcomes, stages

    base, itself = outcomes.base(folder), outcomes.changes_of_base(chosen, folder)
    found = [outcomes.collect(chosen, cell, folder) for cell in stages.cells(chosen)]
    outcomes.write(folder / "matrix.npz", base, found)
    made = numbers.compute(chosen, base, found) | {
        "base_against_itself": itself,
        "base_parameters": outcomes.parameters_of_base(chosen, folder),
    }
    files.write_json(folder / "report.json", {"study": chosen.plain, **made})
    page = folder / "report.html"
    study_page.write(page, title=folder.name, report=made, config=chosen.plain)
    sys.stdout.write(f"\n{numbers.text(made)}\n\nreport: {page}\n")


if __name__ == "__main__":
    cli.run(main, define())
