"""Weights & Biases (`pip install "ftjax[wandb]"`); a resumed run goes on under its id."""

import uuid

from ftjax.report import tracking

PACKAGE = "wandb"


def make(*, project: str, mode: str | None = None, run: tracking.Run) -> tracking.Service:
    """Make the service; project: its name there. mode: online, offline or disabled."""
    import wandb

    def start(known: str) -> str:
        made = known or uuid.uuid4().hex[:8]
        wandb.init(
            project=project, name=run.name, group=run.group, config=run.config, mode=mode, id=made,
            resume="allow",
        )  # fmt: skip
        return made

    log = lambda row, step: wandb.run.log(row, step=step)
    return tracking.Service(start, log, lambda: wandb.run.finish(), (wandb.Error,))
