r"""Run the stages of one config one after another: each may build on what the ones before made.

    python -m experiments.stages --config configs/ppo_hh.py:data=DATA --workdir runs/ppo_hh

The config file has, besides `get_config(arg)`, a function `stages()` that returns {label: arg} in
order. Every stage is a run in DIR/<label>, of `experiments.online` where its config has `rollout`
and of `experiments.train` otherwise; its arg is what stands behind the file name, the stage's own,
and `runs=DIR`, where a stage finds the exports of others. A DIR that holds some of the stages goes
on where it stopped. An evaluation of group "old" whose task a later stage teaches (there its group
is "new") is of group "later" until then: nothing can be forgotten that was not learned.
"""

import pathlib
import sys
from collections.abc import Mapping

from absl import app

from experiments import cli, online, train
from ftjax.core import config as conf
from ftjax.run import config as settings


def define() -> cli.RunsFlags:
    """Define the flags; not at import, since one process may import several commands."""
    return cli.define_runs("stages")


def main(argv: list[str], given: cli.RunsFlags) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    cli.start()
    from ftjax.run import workdirs  # slow to import

    with workdirs.opened(given.workdir.value) as workdir:
        run(given.config.value, workdir)


def run(config: str, workdir: pathlib.Path) -> None:
    """Train every stage in DIR/<label>, as far as no signal stops one; the next call goes on."""
    chosen = {label: settings.read(own) for label, own in read(config, workdir).items()}
    for number, (label, own) in enumerate(mark_later(chosen).items(), 1):
        sys.stdout.write(f"\n== {label} ({number} of {len(chosen)})\n")
        sys.stdout.flush()
        command = train if own.rollout is None else online
        if not command.train(own, workdir / label).has_ended:
            return


def read(config: str, workdir: pathlib.Path) -> dict:
    """Load the config of every stage of `file.py:arg`, by label.

    Raises:
      ValueError: the file has no stages().
    """
    path, _, arg = config.partition(":")
    found = conf.load_function(path, "stages")()
    join = lambda own: ",".join(filter(None, [arg, own, f"runs={workdir}"]))
    return {label: conf.load(f"{path}:{join(own)}") for label, own in found.items()}


def mark_later(chosen: Mapping[str, settings.Settings]) -> dict[str, settings.Settings]:
    """Set the group of evaluations to "later" in the stages before the one that teaches them."""
    news = [_new(own.plain["evals"]) for own in chosen.values()]
    marked, taught = {}, set()
    for number, (label, own) in enumerate(chosen.items()):
        taught |= news[number]
        later = set().union(*news[number + 1 :]) - taught
        evals = own.plain["evals"]
        changed = {name: dict(evals[name], group="later") for name in evals if name in later}
        if changed:
            sys.stdout.write(f"{label}: evaluations of later stages: {', '.join(changed)}\n")
        marked[label] = settings.read(dict(own.plain, evals=evals | changed)) if changed else own
    return marked


def _new(evals: Mapping[str, Mapping]) -> set[str]:
    return {label for label, spec in evals.items() if spec.get("group") == "new"}


if __name__ == "__main__":
    cli.run(main, define())
