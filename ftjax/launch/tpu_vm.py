"""Jobs on Cloud TPU VMs: the gcloud commands of a queued resource each, printed, not run.

They ask for money: who copies them sees what is created, and that it is deleted.
"""

import functools
import pathlib
import shlex
from collections.abc import Sequence

from ftjax.launch.lib import engine
from ftjax.launch.lib.engine import Engine, Submission
from ftjax.launch.lib.jobs import Job

TPU = ("gcloud", "compute", "tpus")


def make(
    *, project: str, zone: str, accelerator: str, runtime: str, spot: bool = False,
    directory: str = "ftjax", python: str = "python",
) -> Engine:  # fmt: skip
    """Print the commands of one queued resource a job.

    accelerator, runtime: as gcloud takes them, such as v5litepod-16 and v2-alpha-tpuv5-lite. spot:
      may be taken back. directory: of the repository on the hosts, whose workdir is on a file
      system that they share.
    """
    options = dict(
        project=project, zone=zone, accelerator=accelerator, runtime=runtime, spot=spot,
        directory=directory, python=python,
    )  # fmt: skip
    return Engine("", functools.partial(submission, **options), engine.show)


def submission(
    jobs: Sequence[Job], root: pathlib.Path, *, project: str, zone: str, accelerator: str,
    runtime: str, spot: bool, directory: str, python: str,
) -> Submission:  # fmt: skip
    """List create, run and delete of every job."""
    where = [f"--project={project}", f"--zone={zone}"]
    commands = []
    for job in jobs:
        name = f"ftjax-{job.id}"
        # Exec'd, so that SIGTERM reaches the trainer and not a shell before it.
        start = f"cd {shlex.quote(directory)} && exec {python} -m {shlex.join(job.command)}"
        commands += [
            [*TPU, "queued-resources", "create", name, f"--node-id={name}", *where,
             f"--accelerator-type={accelerator}", f"--runtime-version={runtime}",
             *(["--spot"] if spot else [])],
            [*TPU, "tpu-vm", "ssh", name, *where, "--worker=all", f"--command={start}"],
            [*TPU, "queued-resources", "delete", name, *where, "--force", "--quiet"],
        ]  # fmt: skip
    return Submission({}, commands)
