r"""Learn from rewards: sample answers, score them, improve, as one config file says.

    python -m experiments.online --config configs/grpo_skills.py --workdir runs/grpo
    python -m experiments.online --config ... --config.rollout.samples=16

What a run reads and leaves is as with `experiments.train`; its config has besides `rollout` (how
answers are sampled), `rewards` (functions of an answer) and `advantages` (of the objective). The
rows of `data` are the prompts. A run that is killed goes on exactly where it was, inside a round
too: the sampled answers are part of the checkpoint.
"""

import pathlib

from absl import app, flags

from experiments import cli
from ftjax.core import config as conf
from ftjax.run import config as settings
from ftjax.run import keys

CONFIG = conf.flag()
WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run; one that holds a run resumes")
RESTART_DATA = flags.DEFINE_bool(
    "restart_data", False, "resume with the data from their beginning: other data or batch size"
)
ALLOW = flags.DEFINE_bool("allow_config_change", False, "resume although the config has changed")


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    chosen = settings.read(keys.read(CONFIG))
    cli.start()
    from ftjax.rl import rollout  # slow to import

    options = dict(allow_config_change=ALLOW.value, restart_data=RESTART_DATA.value)
    rollout.train(chosen, pathlib.Path(WORKDIR.value), **options)


if __name__ == "__main__":
    conf.define_required(CONFIG)
    flags.mark_flag_as_required("workdir")
    cli.run(main)
