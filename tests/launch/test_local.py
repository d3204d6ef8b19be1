"""Jobs on this machine: two at a time, killed in the middle, launched again, nothing repeated."""

import json
import os
import signal
import subprocess
import sys
import time
import types

import pytest

from experiments import sweep
from ftjax.launch import local
from ftjax.launch.lib import jobs as jobs_lib
from ftjax.launch.lib import results
from ftjax.launch.lib.jobs import Job
from ftjax.run import unit
from tests.lab import LONGEST_S, ROOT, environment

STEPS = 6
# What a run does with its workdir, without training: one line a step, continued where it stopped.
STAND_IN = f"""
import pathlib, sys, time
from ftjax.run import lock, unit
from ftjax.run.artifacts import Artifacts
from ftjax.train import stop

how, own = sys.argv[1], Artifacts(sys.argv[2])
if how == "unborn":
    sys.exit("no such thing\\n")
with lock.writer(own), unit.Recorded(own), stop.leaving(lambda: True):
    log = own.workdir / "steps.txt"
    first = len(log.read_text().split()) if log.exists() else 0
    for step in range(first, {STEPS}):
        if how == "diverges" and step == 2:
            raise FloatingPointError("loop: step 2: got a loss of nan")
        with log.open("a") as file:
            file.write(f"{{step}}\\n")
        unit.Progress(own).write(step + 1, {{}})
        time.sleep(0.3)
    unit.finish(own)
"""
LAUNCH = """
import pathlib, sys
from types import SimpleNamespace
from experiments import sweep
from ftjax.launch.lib import jobs

holder = lambda value: SimpleNamespace(value=value)
root = pathlib.Path(sys.argv[1])
given = SimpleNamespace(engine=holder("local"), option=holder(["workers=2"]),
                        again=holder(sys.argv[2:]), dry_run=holder(False))
sweep.launch(jobs.kept(root), root, given)
"""


@pytest.fixture
def jobs(tmp_path):
    """Four jobs, of which one diverges and one never begins."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "launch.py").write_text(LAUNCH)
    kinds = ["steady", "steady", "diverges", "unborn"]
    root = tmp_path / "sweep"
    found = [
        Job(f"job{n}", f"{kind} {n}", ("stand_in", kind, str(root / f"job{n}")), root / f"job{n}",
            {"number": n})
        for n, kind in enumerate(kinds)
    ]  # fmt: skip
    jobs_lib.keep(found, root)
    return found


def launch(root, *again):
    paths = os.pathsep.join([str(root.parent), str(ROOT)])
    command = [sys.executable, str(root.parent / "launch.py"), str(root), *again]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment() | dict(PYTHONPATH=paths), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def states(jobs):
    return [unit.read(job.artifacts).state for job in jobs]


def wait_until(true, what):
    end = time.monotonic() + LONGEST_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def kill(jobs, number, *, step):
    """Launch, send the launcher a signal once two jobs are at `step`, wait for the workers."""
    launcher = launch(jobs[0].workdir.parent)
    steps = lambda: [unit.read(job.artifacts).step for job in jobs[:2]]
    wait_until(lambda: min(steps()) >= step, "no job began")
    launcher.send_signal(number)
    launcher.communicate(timeout=LONGEST_S)
    if number == signal.SIGTERM:
        assert "running" not in states(jobs)  # it has waited for them
    # On a busy machine a worker that saves looks stale for a moment.
    ended = lambda: states(jobs)[:2] == ["stopped", "stopped"]
    wait_until(ended, "workers outlive their launcher, or died with it")


def test_a_sweep_that_is_killed_goes_on_and_repeats_nothing(jobs):
    kill(jobs, signal.SIGKILL, step=1)
    kill(jobs, signal.SIGTERM, step=3)
    last = launch(jobs[0].workdir.parent)
    text, _ = last.communicate(timeout=LONGEST_S)
    assert last.returncode == 1
    assert "sweep: 2 of 4 jobs failed or diverged" in text
    assert states(jobs) == ["done", "done", "diverged", "failed"]
    for job, steps in zip(jobs, (STEPS, STEPS, 2, 0), strict=True):
        log = job.workdir / "steps.txt"
        lines = log.read_text().split() if log.exists() else []
        assert lines == [str(n) for n in range(steps)]
    assert [unit.read(job.artifacts).attempt for job in jobs] == [3, 3, 1, 0]
    rows = results.rows(jobs[2:])
    assert [row["reason"] for row in rows] == [
        "loop: step 2: got a loss of nan", "exit code 1: no such thing",
    ]  # fmt: skip
    assert rows[0]["step"] == 2
    due = lambda *again: [sweep._is_due(job, again, engine="local") for job in jobs]
    assert due() == [False] * 4
    assert due("diverged") == [False, False, True, False]


def test_jobs_of_others_are_waited_for_and_ended_ones_left(jobs, monkeypatch):
    seen = {job.id: state for job, state in zip(jobs, ["running", "done", "new"], strict=False)}
    read = lambda artifacts: unit.Unit(state=seen[artifacts.workdir.name])
    monkeypatch.setattr(local.unit, "read", read)
    waiting = [(job, ["command"]) for job in jobs[:3]]
    assert local._next(waiting)[0] == jobs[2]
    assert [job for job, _ in waiting] == jobs[:1]
    assert local._next(waiting) is None
    seen[jobs[0].id] = "stale"
    assert local._next(waiting)[0] == jobs[0]


@pytest.mark.parametrize("state", ["done", "failed"])
def test_a_dry_run_with_nothing_to_launch_says_so_and_ends_well(jobs, state, monkeypatch, capsys):
    monkeypatch.setattr(sweep.unit, "read", lambda artifacts: unit.Unit(state=state))
    holder = lambda value: types.SimpleNamespace(value=value)
    given = types.SimpleNamespace(
        engine=holder("slurm"), option=holder(["time=1:00:00"]), again=holder([]),
        dry_run=holder(True),
    )  # fmt: skip
    sweep.launch(jobs, jobs[0].workdir.parent, given)
    assert capsys.readouterr().out == "nothing to launch\n"


def test_a_worker_has_a_gpu_of_its_own(jobs, monkeypatch):
    unit.submit(jobs[0].artifacts)
    command = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    assert local._start(jobs[0], command, gpu=3).wait(timeout=LONGEST_S) == 0
    assert jobs[0].artifacts.log.read_text() == "3\n"


def test_a_job_is_alone_whatever_cluster_the_machine_belongs_to(jobs):
    (command, *_) = local.submission(jobs, jobs[0].workdir.parent).commands
    assert command == [sys.executable, "-m", *jobs[0].command, "--processes=1"]
    assert json.loads((jobs[0].workdir.parent / "sweep.json").read_text())["jobs"]["job0"]
