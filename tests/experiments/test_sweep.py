"""Eight runs on two workers, killed in the middle: what they train is what they train alone."""

import csv
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from ftjax.core import files
from ftjax.launch.lib import jobs as jobs_lib
from ftjax.launch.lib import results
from ftjax.run import unit
from tests.lab import LONGEST_S, ROOT, environment, metrics, train

CONFIG = """
import json, pathlib
from configs import common
from ftjax.launch.lib.space import grid


def get_config(arg=None):
    c = common.base()
    c.model.base = "ROOT/base"
    c.adapter = dict(name="lora", where="blocks/**", rank=2, alpha=4.0)
    data = dict(name="jsonl", path="ROOT/rows.jsonl", kind="prompt")
    c.data = dict(data, max_tokens=64, packing="none")
    c.evals.held = dict(name="nll", group="new", data=data)
    c.optim.learning_rate = 0.01
    c.steps, c.batch_size, c.log_every_steps, c.checkpoint.every_steps = 60, 8, 1, 20
    return c


def sweep():
    rates = grid({"optim.learning_rate": (0.01, 0.003), "seed.data": range(4)})
    return rates[:7] + [{"optim.learning_rate": 1e30, "optim.clip_norm": None}]
"""


def command(name, root, *arguments):
    return [
        sys.executable, "-m", "experiments.sweep", name, f"--workdir={root}", *map(str, arguments)
    ]  # fmt: skip


def begin(*given):
    return subprocess.Popen(
        command(*given), cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
def swept(lab, tmp_path):
    """Return the arguments of a launch of eight jobs, and the jobs."""
    config, root = tmp_path / "c.py", tmp_path / "sweep"
    config.write_text(CONFIG.replace("ROOT", str(lab.root)))
    given = ("launch", root, f"--config={config}", "--option=workers=2")
    return given, jobs_lib.plan(str(config), root)


def wait_until(true):
    end = time.monotonic() + LONGEST_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_sweep_that_is_killed_ends_as_its_jobs_alone_would(swept):
    given, jobs = swept
    first = begin(*given)
    wait_until(lambda: any(unit.read(job.artifacts).step for job in jobs[:2]))
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=LONGEST_S)
    wait_until(lambda: all(unit.read(job.artifacts).state != "running" for job in jobs))

    again = begin(*given)
    shown, _ = again.communicate(timeout=8 * LONGEST_S)
    assert again.returncode == 2, shown
    assert "8 jobs: 7 done, 1 diverged" in shown
    for job in jobs[:-1]:
        steps = [row["step"] for row in metrics(job.workdir) if "loss" in row]
        assert steps == list(range(1, 61))
    attempts = [unit.read(job.artifacts).attempt for job in jobs]
    assert 8 <= sum(attempts) <= 10
    assert attempts[-1] == 1
    done = subprocess.run(
        command("collect", given[1], "--best=eval/held/nll"), cwd=ROOT, env=environment(),
        timeout=LONGEST_S, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == [f"{given[1]}/sweep.csv", f"{given[1]}/report.html"]


def test_a_run_of_a_sweep_keeps_its_file_and_becomes_a_row(lab, tmp_path):
    """Two jobs as their commands run them: one learns, one diverges."""
    held = {"evals": {"held": dict(name="nll", group="new", data=lab.rows())}}
    rates = {"good": 0.01, "bad": 1e30}
    jobs = []
    for label, rate in rates.items():
        chosen = lab.settings(**held, **{"optim.learning_rate": rate, "optim.clip_norm": None})
        job = jobs_lib.Job(label, label, ("x",), tmp_path / label, files.plain(chosen.plain))
        jobs.append(job)
        unit.submit(job.artifacts)
        expected = pytest.raises(FloatingPointError) if label == "bad" else nullcontext()
        with expected:
            train(chosen, job.workdir)
    (sheet, page) = results.write(jobs, tmp_path, best="eval/held/nll")
    with sheet.open() as file:
        good, bad = csv.DictReader(file)
    assert (good["state"], good["step"], good["attempt"]) == ("done", "3", "1")
    low, change, high = (float(good[f"eval/held/nll {x}"]) for x in ("low", "change", "high"))
    assert low <= change <= high
    assert change < 0
    assert (bad["state"], bad["optim.learning_rate"]) == ("diverged", "1e+30")
    assert "got a loss of" in bad["reason"]
    assert bad["reason"][:60] in page.read_text()
