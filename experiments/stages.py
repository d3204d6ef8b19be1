r"""Run the stages of one config one after another: each may build on what the ones before made.

    python -m experiments.stages --config configs/ppo_hh.py:data=DATA --workdir runs/ppo_hh

The config file has, besides `get_config(arg)`, a function `stages()` that returns {label: arg} in
order. Every stage is a run in DIR/<label>, of `experiments.online` where its config has `rollout`
and of `experiments.train` otherwise; its arg is what stands behind the file name, the stage's own,
and `runs=DIR`, where a stage finds the exports of others. A DIR that holds some of the stages goes
on where it stopped.
"""

import pathlib
import sys

from absl import app, flags

from experiments import cli, online, train
from ftjax.core import config as conf
from ftjax.run import config as settings

CONFIG = flags.DEFINE_string(
    "config", None, "file.py or file.py:arg with get_config() and stages()"
)
WORKDIR = flags.DEFINE_string("workdir", None, "directory of the runs; it resumes what it holds")


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    workdir = pathlib.Path(WORKDIR.value)
    chosen = {label: settings.read(c) for label, c in read(CONFIG.value, workdir).items()}
    cli.start()

    for number, (label, own) in enumerate(chosen.items(), 1):
        sys.stdout.write(f"\n== {label} ({number} of {len(chosen)})\n")
        sys.stdout.flush()
        command = train if own.rollout is None else online
        if not command.train(
            own, workdir / label
        ).has_ended:  # stopped by a signal; the next call goes on
            return


def read(config: str, workdir: pathlib.Path) -> dict:
    """Load the config of every stage of `file.py:arg`, by label.

    Raises:
      ValueError: the file has no stages().
    """
    path, _, arg = config.partition(":")
    given = conf.load_function(path, "stages")()
    join = lambda own: ",".join(filter(None, [arg, own, f"runs={workdir}"]))
    return {label: conf.load(f"{path}:{join(own)}") for label, own in given.items()}


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    cli.run(main)
