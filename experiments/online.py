r"""Learn from rewards: sample answers, score them, improve, as one config file says.

    python -m experiments.online --config configs/grpo_skills.py --workdir runs/grpo
    python -m experiments.online --config ... --config.rollout.samples=16

What a run reads and leaves is as with `experiments.train`; its config has besides `rollout` (how
answers are sampled), `rewards` (functions of an answer) and `advantages` (of the objective). The
rows of `data` are the prompts. A run that is killed goes on exactly where it was, inside a round
too: the sampled answers are part of the checkpoint.
"""

import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from absl import app, flags

from experiments import cli
from ftjax.core import config_flag
from ftjax.run import config as settings_lib
from ftjax.run import keys


class Flags(NamedTuple):
    """The flags of this command."""

    config: config_flag.Flag
    workdir: flags.FlagHolder
    allow_config_change: flags.FlagHolder
    restart_data: flags.FlagHolder
    profile: flags.FlagHolder


def define() -> Flags:
    """Define the flags; not at import, since other commands import `train`."""
    holder = config_flag.define()
    config_flag.define_required(holder)
    text = "directory of the run, or a URL; one that holds a run resumes"
    workdir = flags.DEFINE_string("workdir", None, text, required=True)
    return Flags(holder, workdir, *cli.define_training())


def main(argv: list[str], given: Flags) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    settings = settings_lib.read(keys.read(given.config))
    cli.start()
    from ftjax.run import workdirs  # slow to import
    from ftjax.train import tracing

    allow = dict(
        allow_config_change=given.allow_config_change.value, restart_data=given.restart_data.value,
        profile=tracing.read(given.profile.value),
    )  # fmt: skip
    with workdirs.opened(given.workdir.value) as workdir:
        train(settings, workdir, **allow)


def train(
    settings: settings_lib.Settings, workdir: pathlib.Path, *, allow_config_change: bool = False,
    restart_data: bool = False, profile: Sequence[int] = (), shared=None,
):  # fmt: skip
    """Train, or go on training, on samples of the policy itself; returns a `finish.Outcome`.

    profile: steps to trace. shared: a `run.shared.Shared`, what other runs of the process built.

    Raises:
      ValueError: anything wrong with the settings, the data, or what the workdir holds.
    """
    from ftjax.rl import rollout  # slow to import
    from ftjax.rl.prompts import Prompts
    from ftjax.run import finish, pins, plan, saved_state, session

    start = time.perf_counter()
    rollout.check(settings)
    with session.opened(workdir, settings) as artifacts:
        settings = pins.pin(settings, artifacts)
        # As in `experiments.train`, but the data are prompts, which have no batches of their own.
        p = plan.plan(settings, load=lambda parts, _: Prompts(parts), shared=shared)
        first, frozen = plan.weights(p, workdir)
        # Batches are answers of the present policy; the sampler is given the trainer's own arrays.
        batches = rollout.make(p, first, frozen)
        step = rollout.Step(plan.compiled_step(p), batches)
        allow = dict(allow_config_change=allow_config_change, restart_data=restart_data)
        with session.records(p, workdir, profile=profile, **allow) as kept:
            if kept.checkpoints.steps():
                first = None  # two states at a time may be more than the memory
            state, progress = session.resume(p, kept, batches, restart_data=restart_data)
            state = plan.begin(p, first) if state is None else state
            batches.watch(state)  # the next answers are sampled from this one
            result = session.train(
                p, kept, step, state, frozen, batches, progress=progress, cost=rollout.cost(p),
                started=start,
            )  # fmt: skip
        params = saved_state.params_of(result.state, frozen)
        return finish.finish(p, result, params, workdir, seconds=time.perf_counter() - start)


if __name__ == "__main__":
    cli.run(main, define())
