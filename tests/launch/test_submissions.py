"""What clusters are handed, to the letter: a change here is a change of what is submitted."""

import os
import pathlib
import subprocess

import jsonschema
import pytest
import yaml

from ftjax.launch.lib import engine, options
from ftjax.launch.lib.jobs import Job
from tests.launch.jobset_schema import JOBSET as SCHEMA

ROOT = pathlib.Path("/mnt-of-all/runs/rates")


def job(own, rate):
    given = f"--config.optim.learning_rate={rate}"
    command = ("experiments.train", "--config=configs/x.py", given, f"--workdir={ROOT / own}")
    return Job(own, f"rate {rate}", command, ROOT / own, {})


JOBS = [job("aa11", "0.001"), job("bb22", "[1, 2]")]
SBATCH = """\
# /mnt-of-all/runs/rates/array.sbatch
#!/bin/bash
#SBATCH --job-name=rates
#SBATCH --array=0-1%4
#SBATCH --output=/mnt-of-all/runs/rates/%A_%a.log
#SBATCH --time=4:00:00
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --partition=long
#SBATCH --signal=TERM@180
#SBATCH --open-mode=append
#SBATCH --requeue

# The signal is for the trainer; the script waits for it to save.
trap : TERM
source env/bin/activate
cd '/a copy/of ftjax'
case $SLURM_ARRAY_TASK_ID in
  0)
    workdir=/mnt-of-all/runs/rates/aa11
    job=(experiments.train --config=configs/x.py --config.optim.learning_rate=0.001 \
--workdir=/mnt-of-all/runs/rates/aa11)
    ;;
  1)
    workdir=/mnt-of-all/runs/rates/bb22
    job=(experiments.train --config=configs/x.py '--config.optim.learning_rate=[1, 2]' \
--workdir=/mnt-of-all/runs/rates/bb22)
    ;;
esac
srun python -m "${job[@]}"
code=$?
# Stopped by a signal, with a checkpoint: it goes on when there is time again.
if grep -q '"state": "stopped"' "$workdir/unit.json"; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code

sbatch /mnt-of-all/runs/rates/array.sbatch
"""
JOBSET = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: ftjax-aa11
  namespace: lab
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
  labels:
    kueue.x-k8s.io/queue-name: tpus
spec:
  failurePolicy:
    maxRestarts: 10
  replicatedJobs:
  - name: run
    replicas: 1
    template:
      spec:
        parallelism: 4
        completions: 4
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 180
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: tpu-v5-lite-podslice
              cloud.google.com/gke-tpu-topology: 4x4
            containers:
            - name: run
              image: registry/ftjax:1
              command:
              - python
              - -m
              - experiments.train
              - --config=configs/x.py
              - --config.optim.learning_rate=0.001
              - --workdir=/mnt-of-all/runs/rates/aa11
              resources:
                limits:
                  google.com/tpu: '4'
              volumeMounts:
              - name: runs
                mountPath: /mnt-of-all
            volumes:
            - name: runs
              persistentVolumeClaim:
                claimName: runs-claim
"""
TPU_VM = """\
gcloud compute tpus queued-resources create ftjax-aa11 --node-id=ftjax-aa11 --project=lab \
--zone=us-west4-a --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot
gcloud compute tpus tpu-vm ssh ftjax-aa11 --project=lab --zone=us-west4-a --worker=all \
'--command=cd ftjax && exec python -m experiments.train --config=configs/x.py \
--config.optim.learning_rate=0.001 --workdir=/mnt-of-all/runs/rates/aa11'
gcloud compute tpus queued-resources delete ftjax-aa11 --project=lab --zone=us-west4-a --force \
--quiet
"""
OF_JOBSET = [
    "image=registry/ftjax:1", "claim=runs-claim", "mount=/mnt-of-all", "hosts=4", "topology=4x4",
    "accelerator=tpu-v5-lite-podslice", "queue=tpus", "namespace=lab",
]  # fmt: skip
OF_TPU_VM = [
    "project=lab", "zone=us-west4-a", "accelerator=v5litepod-16", "runtime=v2-alpha-tpuv5-lite",
    "spot=true",
]  # fmt: skip


def submission(name, *texts, jobs=JOBS):
    return options.engine(name, texts).submission(jobs, ROOT)


def test_slurm(monkeypatch):
    monkeypatch.setattr(pathlib.Path, "cwd", lambda: pathlib.PurePosixPath("/a copy/of ftjax"))
    given = ["time=4:00:00", "nodes=2", "gpus=8", "partition=long", "at_once=4"]
    assert submission("slurm", *given, "setup=source env/bin/activate").text() == SBATCH


@pytest.mark.parametrize(("state", "requeued"), [("stopped", True), ("done", False)])
def test_the_batch_script_runs_its_task_and_asks_again_for_one_that_was_stopped(
    tmp_path, state, requeued
):  # fmt: skip
    (tmp_path / "bb22").mkdir()
    (tmp_path / "bb22" / "unit.json").write_text(f'{{\n  "state": "{state}"\n}}')
    jobs = [each._replace(workdir=tmp_path / each.id) for each in JOBS]
    (script,) = options.engine("slurm", []).submission(jobs, tmp_path).files.values()
    for tool, code in (("srun", 3), ("scontrol", 0)):
        own = tmp_path / tool
        own.write_text(f'#!/bin/bash\nprintf "%s|" {tool} "$@" >> {tmp_path}/calls\nexit {code}\n')
        own.chmod(0o755)
    variables = dict(PATH=f"{tmp_path}:{os.environ['PATH']}", SLURM_ARRAY_TASK_ID="1",
                     SLURM_JOB_ID="71")  # fmt: skip
    done = subprocess.run(["bash", "-c", script], env=variables, check=False, timeout=30)
    assert done.returncode == 3
    wanted = "srun|python|-m|experiments.train|--config=configs/x.py|"
    wanted += f"--config.optim.learning_rate=[1, 2]|--workdir={ROOT}/bb22|"
    wanted += "scontrol|requeue|71|" if requeued else ""
    assert (tmp_path / "calls").read_text() == wanted


def test_jobset():
    found = submission("jobset", *OF_JOBSET)
    assert found.commands == [["kubectl", "apply", "-f", f"{ROOT}/jobsets.yaml"]]
    (text,) = found.files.values()
    assert text.split("---\n")[0] == JOBSET
    assert [each["metadata"]["name"] for each in yaml.safe_load_all(text)] == [
        "ftjax-aa11", "ftjax-bb22",
    ]  # fmt: skip


@pytest.mark.parametrize("more", [[], ["chips=8", "restarts=0", "grace=30"]])
def test_a_jobset_is_one_by_its_schema(more):
    given = [text for text in OF_JOBSET if not text.startswith("queue=")] if more else OF_JOBSET
    (text,) = submission("jobset", *given, *more).files.values()
    for each in yaml.safe_load_all(text):
        jsonschema.validate(each, SCHEMA)


@pytest.mark.parametrize(
    ("line", "other", "message"),
    [
        ("maxRestarts: 10", "maxRestart: 10", "'maxRestart' was unexpected"),
        ("backoffLimit: 0", "backoffLimit: '0'", "'0' is not of type 'integer'"),
        ("command:", "commands:", "'commands' was unexpected"),
        ("parallelism: 4", "hosts: 4", "'hosts' was unexpected"),
        ("google.com/tpu: '4'", "google.com/tpu: four", "'four' does not match"),
        ("name: ftjax-aa11", "name: ftjax_aa11", "'ftjax_aa11' does not match"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused(line, other, message):
    assert line in JOBSET
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(yaml.safe_load(JOBSET.replace(line, other)), SCHEMA)


def test_tpu_vms():
    assert submission("tpu_vm", *OF_TPU_VM, jobs=JOBS[:1]).text() == TPU_VM


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("slrm", [], "--engine: got 'slrm'; expected one of jobset, local, slurm, tpu_vm"),
        ("slurm", ["tme=1"], r"--option\.tme: unknown key; did you mean 'time'"),
        ("slurm", ["nodes=0"], r"--option\.nodes: got 0; expected at least 1"),
        ("slurm", ["nodes"], "--option: got 'nodes'; expected key=value"),
        ("slurm", ["nodes=1", "nodes=2"], "--option: got 'nodes=2'; expected key=value, each key"),
        ("jobset", [], "--option: got nothing; expected also accelerator, claim, image"),
        ("local", ["gpus=[0, 1]", "workers=3"], "got 3 for the GPUs"),
    ],
)
def test_wrong_options_are_named(name, given, message):
    with pytest.raises(ValueError, match=message):
        options.engine(name, given)


def test_a_workdir_that_pods_do_not_see_is_an_error():
    given = [text for text in OF_JOBSET if not text.startswith("mount=")]
    with pytest.raises(ValueError, match="which is not in the volume at /elsewhere"):
        submission("jobset", *given, "mount=/elsewhere")


def test_a_missing_tool_is_named_before_anything_is_written(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="--engine: found no 'sbatch' on this machine"):
        options.engine("slurm", []).check()
    options.engine("tpu_vm", OF_TPU_VM).check()


def test_a_command_that_fails_is_named(tmp_path):
    what = engine.Submission({tmp_path / "a" / "b": "text"}, [["true"], ["false", "x y"], ["no"]])
    with pytest.raises(RuntimeError, match="--engine: false 'x y' ended with code 1"):
        engine.run(what, [])
    assert (tmp_path / "a" / "b").read_text() == "text"
