"""The control without training: the base under the evaluations of a study."""

import pathlib

from ftjax.core import files, processes
from ftjax.run import build, plan
from ftjax.run.artifacts import Artifacts
from ftjax.run.shared import Shared
from ftjax.studies import outcomes, stages
from ftjax.studies.study import Study


def evaluate(study: Study, folder: pathlib.Path, *, shared: Shared) -> None:
    """Evaluate the base, with its adapters off, into DIR/none/evals/0.npz, unless that is there.

    Raises:
      ValueError: it was evaluated with another config.
    """
    first = stages.stages(study, stages.cells(study)[0], folder)[0]
    own, evals = Artifacts(folder / outcomes.NONE), files.plain(first.settings.plain["evals"])
    known = own.workdir / "evals.json"
    if processes.on_first(own.scores(0).is_file):
        if files.read_json(known) != evals:
            raise ValueError(
                f"--workdir: got {folder}, whose base was evaluated otherwise; expected the study "
                "as it began; undo the change of evals, or choose another directory"
            )
        return
    p = plan.plan(first.settings, shared=shared)
    params = build.weights(p.parts, shared=shared) | {"adapters": None}
    processes.on_first(lambda: bool(files.write_json(known, evals)))
    seed = first.settings.seed.sampling
    p.evaluation.run(params, step=0, workdir=own.workdir, seed=seed, shared=shared)
