"""Trackio (`pip install "ftjax[trackio]"`), on this machine; a resumed run goes on by its name."""

from ftjax.report import tracking

PACKAGE = "trackio"


def make(*, project: str, run: tracking.Run) -> tracking.Service:
    """Make the service; project: its name there."""
    import trackio

    def start(known: str) -> str:
        made = trackio.init(
            project=project, name=known or run.name, group=run.group, config=dict(run.config),
            resume="allow" if known else "never", embed=False,
        )  # fmt: skip
        return made.name  # another one than asked for, where that was taken

    log = lambda row, step: trackio.log(row, step=step)
    return tracking.Service(start, log, trackio.finish, ())
