"""Jobs as one array of SLURM: a batch script with the command of each task.

The trainer is started by srun, which hands it SIGTERM `grace` seconds before the time is up; it
saves and leaves, and its task is queued again until unit.json says that the run has ended. Needs
sbatch, and a file system that login and compute nodes share.
"""

import functools
import pathlib
import shlex
from collections.abc import Sequence

from ftjax.core.typed import Count
from ftjax.launch.lib import engine
from ftjax.launch.lib.engine import Engine, Submission
from ftjax.launch.lib.jobs import Job

SCRIPT = """\
#!/bin/bash
{directives}

# The signal is for the trainer; the script waits for it to save.
trap : TERM
{setup}cd {cwd}
case $SLURM_ARRAY_TASK_ID in
{cases}
esac
srun {python} -m "${{job[@]}}"
code=$?
# Stopped by a signal, with a checkpoint: it goes on when there is time again.
if grep -q '"state": "stopped"' "$workdir/unit.json"; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""


def make(
    *, time: str = "", nodes: Count = 1, gpus: Count | None = None, cpus: Count | None = None,
    memory: str = "", partition: str = "", account: str = "", at_once: Count | None = None,
    grace: Count = 180, python: str = "python", setup: str = "",
) -> Engine:  # fmt: skip
    """Submit one task a job, each of one process a node.

    time, memory, partition, account: as sbatch takes them; "" for the cluster's own. gpus, cpus:
      of a node. at_once: tasks that run together. grace: seconds for a save. setup: a line before
      the trainer, such as `source env/bin/activate`.
    """
    wanted = {
        "time": time, "nodes": nodes, "ntasks-per-node": 1, "gpus-per-node": gpus,
        "cpus-per-task": cpus, "mem": memory, "partition": partition, "account": account,
        # Without `B:` it goes to the steps, the trainer among them, and not to the script.
        "signal": f"TERM@{grace}", "open-mode": "append",
    }  # fmt: skip
    directives = [f"#SBATCH --{name}={value}" for name, value in wanted.items() if value]
    build = functools.partial(
        submission, directives=[*directives, "#SBATCH --requeue"], at_once=at_once, python=python,
        setup=f"{setup}\n" if setup else "",
    )  # fmt: skip
    return Engine("sbatch", build, engine.run)


def submission(
    jobs: Sequence[Job], root: pathlib.Path, *, directives: Sequence[str], at_once: int | None,
    python: str, setup: str,
) -> Submission:  # fmt: skip
    """Write the array of jobs; paths are absolute, since the script runs from SLURM's spool."""
    root, cwd = root.absolute(), pathlib.Path.cwd()
    limit = f"%{at_once}" if at_once else ""
    own = [
        f"#SBATCH --job-name={root.name}", f"#SBATCH --array=0-{len(jobs) - 1}{limit}",
        f"#SBATCH --output={root}/%A_%a.log", *directives,
    ]  # fmt: skip
    case = lambda number, job: (
        f"  {number})\n"
        f"    workdir={shlex.quote(str(job.workdir.absolute()))}\n"
        f"    job=({shlex.join(job.command)})\n"
        "    ;;"
    )
    text = SCRIPT.format(
        directives="\n".join(own), setup=setup, cwd=shlex.quote(str(cwd)), python=python,
        cases="\n".join(case(*each) for each in enumerate(jobs)),
    )  # fmt: skip
    script = root / "array.sbatch"
    return Submission({script: text}, [["sbatch", str(script)]])
