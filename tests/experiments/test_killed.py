"""Runs in processes of their own that are killed, asked to stop, or one of several."""

import json
import random
import signal
import socket
import time

import numpy as np
import pytest
import safetensors.numpy

from tests.lab import LONGEST_S, evaluated, finish, metrics, start

STEPS = 60
CONFIG = "configs/sft.py:path={root}/rows.jsonl,base={root}/base,rank=2"


def arguments(lab, workdir, *more):
    config = CONFIG.format(root=lab.root)
    return [
        "--config", config, "--workdir", workdir, f"--config.steps={STEPS}",
        "--config.data.max_tokens=64", "--config.batch_size=8", "--config.log_every_steps=1",
        "--config.checkpoint.every_steps=4", "--config.samples.max_new_tokens=2", *more,
    ]  # fmt: skip


def weights(workdir):
    return (workdir / "export" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(lab, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    code, _, err = finish(start(*arguments(lab, workdir)))
    assert code == 0, err
    assert "Traceback" not in err
    return workdir


def rows(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def interrupt(lab, workdir, number, at):
    """Send a signal once the log has so many rows; returns (exit code, stderr)."""
    process, limit = start(*arguments(lab, workdir)), time.monotonic() + LONGEST_S
    while rows(workdir) < at and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(number)
    code, _, err = finish(process)
    return code, err


def check_same(workdir, whole):
    assert metrics(workdir) == metrics(whole)
    assert weights(workdir) == weights(whole)
    assert json.loads((workdir / "summary.json").read_text())["stopped"] == "done"


def kill_often(lab, workdir, whole, moments):
    codes = [interrupt(lab, workdir, signal.SIGKILL, at)[0] for at in moments]
    assert -signal.SIGKILL in codes
    code, _, err = finish(start(*arguments(lab, workdir)))
    assert code == 0, err
    check_same(workdir, whole)


def test_killed_once_it_ends_as_if_nothing_had_been(lab, tmp_path, uninterrupted):
    kill_often(lab, tmp_path / "run", uninterrupted, [random.Random(0).randrange(5, 40)])


@pytest.mark.slow
def test_killed_five_times_it_ends_as_if_nothing_had_been(lab, tmp_path, uninterrupted):
    moments = sorted(random.Random(time.time()).randrange(1, STEPS - 8) for _ in range(5))
    kill_often(lab, tmp_path / "run", uninterrupted, moments)


def test_asked_to_stop_it_saves_and_goes_on_later(lab, tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    code, err = interrupt(lab, workdir, signal.SIGTERM, 10)
    assert code == 0, err
    assert "SIGTERM: stopped after step" in err
    assert "saved" in err
    steps = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
    assert max(steps) == metrics(workdir)[-1]["step"] < STEPS
    assert not (workdir / "export").exists()
    code, _, err = finish(start(*arguments(lab, workdir)))
    assert code == 0, err
    check_same(workdir, uninterrupted)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_are_one_with_two_devices(lab, tmp_path):
    path = tmp_path / "config.py"
    plain = evaluated(lab).to_dict()
    plain["evals"] = {
        "task": dict(name="nll", group="new", data=lab.rows(max_tokens=64), rows=8),
        "answers": dict(name="generate", data=lab.raw(), rows=4, max_new_tokens=4),
    }
    path.write_text(
        "from ftjax.core import config as conf\n\n\ndef get_config():\n"
        f"    c = conf.create(**{plain!r})\n    return c\n"
    )
    common = ["--config", path, "--config.batch_size=8"]
    one = start(*common, "--workdir", tmp_path / "one", devices=2)
    joined = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2]
    code, _, err = finish(one)
    assert code == 0, err
    two = [start(*common, "--workdir", tmp_path / "two", *joined, "--index", i) for i in (0, 1)]
    (code, out, err), (code1, out1, err1) = map(finish, two)
    assert (code, code1) == (0, 0), err + err1
    assert "report: " in out
    assert "report: " not in out1
    compare_runs(tmp_path / "one", tmp_path / "two")


def compare_runs(one, two):
    assert len(metrics(one)) == len(metrics(two)) > 3
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    names = lambda folder: sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))
    kept = lambda folder: [n for n in names(folder) if not n.startswith(("tens", "checkp"))]
    assert kept(one) == kept(two)
    a, b = (safetensors.numpy.load(weights(folder)) for folder in (one, two))
    for name, array in a.items():
        np.testing.assert_allclose(b[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
