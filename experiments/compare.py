r"""Run the variants of one config one after another, and put what they learned and forgot together.

    python -m experiments.compare --config configs/quickstart.py --workdir runs/quickstart

The config file has, besides `get_config(arg)`, a function `sweep()` that returns {label: arg}, or
dicts of dotted overrides as `experiments.sweep` takes them: one run each, in DIR/<label>. What
stands behind the file name (`x.py:steps=9`) goes to every run. DIR/report.html and the printed
table compare all of them with the base; a DIR that holds some of the runs goes on where it stopped.
Runs share what is the same: tokenizer, encoded data, evaluations, compiled programs, and the base's
weights where no variant trains them.
"""

import pathlib
import sys

from absl import app

from experiments import cli, train
from ftjax.core import errors
from ftjax.launch.lib import jobs
from ftjax.run import config as settings


def define() -> cli.RunsFlags:
    """Define the flags; not at import, since one process may import several commands."""
    return cli.define_runs("sweep")


def main(argv: list[str], given: cli.RunsFlags) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    variants = read(given.config.value)
    cli.start()
    from ftjax.run import workdirs  # slow to import

    with workdirs.opened(given.workdir.value) as workdir:
        compare(variants, workdir)


def compare(variants: dict, workdir: pathlib.Path) -> None:
    """Train every variant in DIR/<label>, and report what each learned and forgot.

    Raises:
      RuntimeError: a variant has no result.
    """
    from ftjax.core import processes
    from ftjax.run import finish  # slow to import
    from ftjax.run.shared import Shared

    found, failed = {}, {}
    shared = Shared(base=_base_of(variants))
    for label, config in variants.items():
        sys.stdout.write(f"\n== {label}\n")
        try:
            outcome = train.train(settings.read(config), workdir / label, shared=shared)
        except errors.MESSAGES as error:
            if not errors.is_message(error):
                raise
            failed[label] = str(error)
            sys.stdout.write(f"{label} ended: {error}\n")
            continue
        if not outcome.has_ended:  # stopped by a signal; the next call goes on
            return
        found[label] = outcome.table
    if processes.is_first():
        finish.join(found, workdir, failed=failed)
    if failed:  # the table is there; the exit code says that it is not whole
        raise RuntimeError(
            f"compare: {len(failed)} of {len(variants)} variants have no result: "
            + "; ".join(f"{label}: {reason}" for label, reason in failed.items())
        )


def _base_of(variants: dict) -> str:
    """Return the base that all variants adapt, empty where there is none.

    What trains a base itself needs a copy of it, and would hold both.
    """
    bases = {c.model.base if c.adapter.get("name") else "" for c in variants.values()}
    return bases.pop() if len(bases) == 1 else ""


def read(config: str) -> dict:
    """Load the config of every variant of `file.py:arg`, by label.

    Raises:
      ValueError: the file has no sweep(), or a variant is not legal.
    """
    found = jobs.variants(config)
    return {label: jobs.resolve(config, variant) for label, variant in found.items()}


if __name__ == "__main__":
    cli.run(main, define())
