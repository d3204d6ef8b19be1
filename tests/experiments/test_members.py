"""Many adapter runs as one program, through the command line: killed, diverging, stopping early."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

from tests import lab as labs
from tests.lab import ROOT, metrics, start

CONFIG = """
from configs import common
from ftjax.run.member_settings import Listed, product


def get_config(arg=None):
    arg = common.parse_arg(arg, rate=0.01, rank=2)
    c = common.base()
    c.model.base = {base!r}
    c.adapter = dict(name="lora", where="blocks/**", rank=arg.rank, alpha=4.0)
    c.optim.learning_rate = arg.rate
    c.data = dict(name="jsonl", path={rows!r}, kind="prompt", max_tokens=64)
    c.evals.task = dict(name="nll", group="new", data=dict(c.data), rows=8)
    c.steps, c.batch_size, c.log_every_steps = 12, 8, 1
    c.checkpoint.every_steps, c.eval_every_steps = 4, 6
    return c
"""
MEMBERS = """

def members():
    rows = product(lr=(0.01,), rank=(2, 4)) + product(lr=(1e30,), rank=(2,))
    return Listed(rows, stop=dict(metric="eval/task/nll", patience=3))
"""
HALVED = """

def members():
    rows = product(lr=(0.01, 1e-6), rank=(2,))
    return Listed(rows, halving=dict(metric="eval/task/nll", rungs=(6,)))
"""
SWEPT = """

def members():
    return {members}


def sweep():
    return [{{"optim.clip_norm": 0.5}}]
"""
FINE = ("lr=0.01,rank=2", "lr=0.01,rank=4")
DIVERGES = "lr=1e+30,rank=2"
LONGEST_S = 300  # of a command, which makes several runs


def finish(process):
    return labs.finish(process, longest=LONGEST_S)


@pytest.fixture(scope="module")
def configs(lab, tmp_path_factory):
    """Files of the members, and of one run alone."""
    folder = tmp_path_factory.mktemp("configs")
    text = CONFIG.format(base=str(lab.root / "base"), rows=str(lab.root / "rows.jsonl"))
    (folder / "alone.py").write_text(text)
    (folder / "members.py").write_text(text + MEMBERS)
    (folder / "halved.py").write_text(text + HALVED)
    return folder


@pytest.fixture(scope="module")
def whole(configs, tmp_path_factory):
    """The directory of members that nobody stopped."""
    workdir = tmp_path_factory.mktemp("members") / "whole"
    code, out, err = finish(start("--config", configs / "members.py", "--workdir", workdir))
    assert code == 0, err
    assert "Traceback" not in err
    assert DIVERGES in out
    return workdir


def adapter(workdir):
    return (workdir / "export" / "adapter_model.safetensors").read_bytes()


def test_each_directory_reads_as_that_of_a_run(whole):
    for name in FINE:
        own = whole / name
        summary = json.loads((own / "summary.json").read_text())
        assert (summary["stopped"], summary["step"], summary["lost_rows"]) == ("done", 12, 0)
        config = json.loads((own / "config.json").read_text())
        assert f"rank={config['adapter']['rank']}" in name
        assert [row["step"] for row in metrics(own)] == list(range(13))
        assert sorted(p.name for p in (own / "evals").iterdir()) == [
            "0.npz", "12.npz", "6.npz"
        ]  # fmt: skip
        assert (own / "report.html").is_file()
        ranks = {x.shape[0] for n, x in safetensors.numpy.load(adapter(own)).items() if "A" in n}
        assert ranks == {config["adapter"]["rank"]}
    assert (whole / "report.html").is_file()


def test_one_that_diverges_is_a_row_with_its_reason(whole):
    unit = json.loads((whole / DIVERGES / "unit.json").read_text())
    assert unit["state"] == "diverged"
    assert "expected a finite number" in unit["reason"]
    assert "the batch is the one at data position" in unit["reason"]
    table = (whole / "sweep.csv").read_text().splitlines()
    assert len(table) == 1 + len(FINE) + 1
    assert sum(",done," in line for line in table) == len(FINE)
    assert not (whole / DIVERGES / "export").exists()


def test_the_best_by_the_metric_that_stops_them_is_first(whole):
    with (whole / "sweep.csv").open() as file:
        found = [(row["label"], row["eval/task/nll"]) for row in csv.DictReader(file)]
    first, second, last = found
    assert float(first[1]) <= float(second[1])
    assert last == (DIVERGES, "")
    assert "best by" in (whole / "report.html").read_text()


def test_a_member_is_the_run_that_it_would_be_alone(configs, whole, tmp_path):
    alone = tmp_path / "alone"
    config = f"{configs / 'alone.py'}:rate=0.01,rank=2"
    code, _, err = finish(start("--config", config, "--workdir", alone))
    assert code == 0, err
    member = whole / FINE[0]
    for one, other in zip(metrics(member), metrics(alone), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    expected = safetensors.numpy.load(adapter(alone))
    for name, array in safetensors.numpy.load(adapter(member)).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-4)


def test_a_reader_of_runs_reads_a_member(whole):
    own = whole / FINE[1]
    code, out, err = finish(start("--workdir", own, main="evaluate"))
    assert code == 0, err
    assert "task" in out


def rows(member):
    path = member / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def kill(process, is_time, number):
    """Send a signal when it is time; returns the code that the process ended with."""
    limit = time.monotonic() + LONGEST_S
    while not is_time() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == (0 if number == signal.SIGTERM else -number), err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_in_the_middle_they_end_as_if_nothing_had_been(number, configs, whole, tmp_path):
    workdir = tmp_path / "run"
    command = ("--config", configs / "members.py", "--workdir", workdir)
    kill(start(*command), lambda: rows(workdir / FINE[-1]) >= 7, number)
    code, _, err = finish(start(*command))
    assert code == 0, err
    for name in FINE:
        assert metrics(workdir / name) == metrics(whole / name)
        assert adapter(workdir / name) == adapter(whole / name)
    before, after = (json.loads((own / DIVERGES / "unit.json").read_text())["reason"]
                     for own in (whole, workdir))  # fmt: skip
    assert before.partition("; last")[0] == after.partition("; last")[0]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_the_worse_half_ends_at_its_rung(killed, configs, whole, tmp_path):
    """Also where the run is killed there: between an evaluation, a save, and an end."""
    workdir, names = tmp_path / "run", ("lr=0.01", "lr=1e-06")
    command = ("--config", configs / "halved.py", "--workdir", workdir)
    if killed:
        kill(start(*command), lambda: rows(workdir / names[1]) >= 7, signal.SIGKILL)
    code, _, err = finish(start(*command))
    assert code == 0, err
    unit = json.loads((workdir / names[1] / "unit.json").read_text())
    assert unit["state"] == "done"
    assert "at step 6, not among the best 50%" in unit["reason"]
    assert [row["step"] for row in metrics(workdir / names[1])] == list(range(7))
    assert (workdir / names[1] / "export").is_dir()
    for one, other in zip(metrics(workdir / names[0]), metrics(whole / FINE[0]), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_rate_rank_and_seed_on_real_data_end_though_killed_twice(shared_data, tmp_path):
    """Twelve members over the embedded base, small: the command, the table and the report."""
    workdir, last = tmp_path / "run", "lr=0.01,rank=16,seed=1"
    keys = dict(eval_every_steps=6, checkpoint__every_steps=3, log_every_steps=1, batch_size=4,
                data__max_tokens=64)  # fmt: skip
    keys |= {f"evals__{label}__rows": 8 for label in ("medical", "choice", "wiki")}
    config = f"configs/members_medical.py:data={shared_data},steps=12"
    flags = (f"--config.{key.replace('__', '.')}={value}" for key, value in keys.items())
    command = ("--config", config, "--workdir", workdir, *flags)
    for count in (5, 9):
        kill(start(*command), lambda count=count: rows(workdir / last) >= count, signal.SIGKILL)
    code, _, err = finish(start(*command))
    assert code == 0, err
    table = (workdir / "sweep.csv").read_text().splitlines()
    assert len(table) == 1 + 12
    assert all(",done," in line for line in table[1:])
    assert all(key in table[0] for key in ("optim.learning_rate", "adapter.rank", "seed.data"))
    assert (workdir / "report.html").is_file()
    assert [row["step"] for row in metrics(workdir / last)] == list(range(13))


def test_a_sweep_has_rows_of_the_members_of_its_jobs(configs, tmp_path):
    root, config = tmp_path / "sweep", configs / "swept.py"
    text = (configs / "alone.py").read_text()
    config.write_text(text + SWEPT.format(members="product(lr=(0.01,), rank=(2, 4))"))
    run = lambda name, *given: subprocess.run(
        [sys.executable, "-m", "experiments.sweep", name, f"--workdir={root}", *given], cwd=ROOT,
        env=labs.environment(), capture_output=True, text=True, timeout=LONGEST_S, check=False,
    )  # fmt: skip
    done = run("launch", f"--config={config}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 jobs: 2 done" in done.stdout
    (job,) = (path for path in root.iterdir() if path.is_dir())
    assert json.loads((job / "unit.json").read_text())["state"] == "done"
    assert json.loads((job / "unit.json").read_text())["attempt"] == 1
    assert run("launch", f"--config={config}").stdout.startswith("nothing to launch")
    assert run("collect", "--best=eval/task/nll").returncode == 0
    with (root / "sweep.csv").open() as file:
        found = list(csv.DictReader(file))
    assert {row["id"] for row in found} == {f"{job.name}/rank={rank}" for rank in (2, 4)}
    assert all(row["state"] == "done" and row["eval/task/nll"] for row in found)
    assert {row["adapter.rank"] for row in found} == {"2", "4"}
