"""What a run leaves behind: the exported weights, summary.json, report.html."""

import dataclasses
import sys

import jax

from ftjax.models import hf


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended, and where its results are."""

    stopped: str
    row: dict


def progress(what: str):
    """Make a callback `(done, total)` that shows a bar on a terminal and nothing elsewhere."""
    from tqdm import tqdm

    bar = tqdm(desc=what, unit="row", disable=not sys.stderr.isatty(), leave=False)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def finish(plan, run, frozen, workdir, *, seconds: float) -> Outcome:
    """Export."""
    from experiments import running

    params = running.params_of(run.state, frozen)
    hf.save(
        workdir / "export",
        jax.device_get(params["model"]),
        family=plan.parts.family,
        config=plan.parts.model.config,
        tokenizer_dir=plan.parts.tokenizer_source,
    )
    return Outcome(run.stopped, run.row)
