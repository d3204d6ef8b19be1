"""Jobs on Kubernetes: a JobSet each (jobset.x-k8s.io), applied by kubectl.

The trainer is the container's own process, so that SIGTERM reaches it, and has `grace` seconds to
save. A pod that was lost makes the JobSet start all of its hosts again, up to `restarts` times, and
the run goes on from its checkpoint. Workdirs lie on a volume that all pods mount.
"""

import functools
import pathlib
from collections.abc import Sequence

import yaml

from ftjax.core.typed import Count, Natural
from ftjax.launch.lib import engine
from ftjax.launch.lib.engine import Engine, Submission
from ftjax.launch.lib.jobs import Job

TOPOLOGY = "alpha.jobset.sigs.k8s.io/exclusive-topology"
NODEPOOL = "cloud.google.com/gke-nodepool"
QUEUE = "kueue.x-k8s.io/queue-name"


def make(
    *, image: str, claim: str, mount: str, accelerator: str, topology: str, hosts: Count = 1,
    chips: Count = 4, queue: str = "", namespace: str = "default", restarts: Natural = 10,
    grace: Count = 180, python: str = "python",
) -> Engine:  # fmt: skip
    """Apply one JobSet a job.

    image: of a container that starts in the repository. claim, mount: a volume claim that many
      pods may write to, and where it is mounted; the workdir lies in it. accelerator, topology: of
      the node pool, such as tpu-v5-lite-podslice and 4x4. hosts, chips: of a slice, and of a host.
      queue: Kueue's. grace: seconds for a save.
    """
    options = dict(
        image=image, claim=claim, mount=mount, accelerator=accelerator, topology=topology,
        hosts=hosts, chips=chips, queue=queue, namespace=namespace, restarts=restarts, grace=grace,
        python=python,
    )  # fmt: skip
    return Engine("kubectl", functools.partial(submission, **options), engine.run)


def submission(jobs: Sequence[Job], root: pathlib.Path, *, mount: str, **options) -> Submission:
    """Write the JobSets of jobs.

    Raises:
      ValueError: the workdirs do not lie in the volume.
    """
    if not root.absolute().is_relative_to(mount):
        raise ValueError(
            f"--workdir: got {root.absolute()}, which is not in the volume at {mount}; expected a "
            "directory that pods and this machine see under one path; mount it here or move the "
            "workdir"
        )
    path = root.absolute() / "jobsets.yaml"
    made = [_jobset(job, mount=mount, **options) for job in jobs]
    return Submission(
        {path: yaml.safe_dump_all(made, sort_keys=False)}, [["kubectl", "apply", "-f", str(path)]]
    )  # fmt: skip


def _jobset(job: Job, *, queue: str, namespace: str, restarts: int, hosts: int, **pod) -> dict:
    metadata = {"name": f"ftjax-{job.id}", "namespace": namespace,
                "annotations": {TOPOLOGY: NODEPOOL}}  # fmt: skip
    if queue:
        metadata["labels"] = {QUEUE: queue}
    template = {"parallelism": hosts, "completions": hosts, "backoffLimit": 0,
                "template": {"spec": _pod(job, **pod)}}  # fmt: skip
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": restarts},
            "replicatedJobs": [{"name": "run", "replicas": 1, "template": {"spec": template}}],
        },
    }


def _pod(
    job: Job, *, image: str, claim: str, mount: str, accelerator: str, topology: str, chips: int,
    grace: int, python: str,
) -> dict:  # fmt: skip
    command = [python, "-m", *job.command[:-1], f"--workdir={job.workdir.absolute()}"]
    container = {
        "name": "run",
        "image": image,
        "command": command,
        "resources": {"limits": {"google.com/tpu": str(chips)}},
        "volumeMounts": [{"name": "runs", "mountPath": mount}],
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": accelerator,
            "cloud.google.com/gke-tpu-topology": topology,
        },
        "containers": [container],
        "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}],
    }
