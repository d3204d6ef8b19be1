"""What a JobSet may say: the part of the schema of jobset.x-k8s.io v1alpha2 that is written here.

Every object is closed: a name that the schema does not have is an error, as of a strict cluster. A
name that the launcher begins to write is added here from the definition of its release.
"""

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
NATURAL = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
# A number with a unit, as "4" or "16Gi"; a number is one too.
QUANTITY = {"type": ["integer", "string"], "pattern": r"^\d+(\.\d+)?(m|[kMGTPE]i?)?$"}


def closed(*required, **properties):
    """Describe an object that has no other keys, and of these the required ones."""
    return {
        "type": "object", "properties": properties, "required": list(required),
        "additionalProperties": False,
    }  # fmt: skip


def several(items):
    return {"type": "array", "items": items, "minItems": 1}


CONTAINER = closed(
    "name",
    "image",
    name=NAME,
    image=TEXT,
    command=several(TEXT),
    resources=closed(limits={"type": "object", "additionalProperties": QUANTITY}),
    volumeMounts=several(closed("name", "mountPath", name=NAME, mountPath=TEXT)),
)
VOLUME = closed("name", name=NAME, persistentVolumeClaim=closed("claimName", claimName=TEXT))
POD = closed(
    "containers",
    restartPolicy={"enum": ["Never", "OnFailure"]},  # of the pods of a job
    terminationGracePeriodSeconds=NATURAL,
    nodeSelector=TEXTS,
    containers=several(CONTAINER),
    volumes=several(VOLUME),
)
JOB = closed(
    "template",
    parallelism=WHOLE,
    completions=WHOLE,
    backoffLimit=WHOLE,
    template=closed("spec", spec=POD),
)
JOBSET = closed(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=closed("name", name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS),
    spec=closed(
        "replicatedJobs",
        failurePolicy=closed(maxRestarts=WHOLE),
        replicatedJobs=several(
            closed("name", "template", name=NAME, replicas=NATURAL, template=closed(spec=JOB))
        ),
    ),
)
