"""Workdirs at URLs, on fsspec's file systems in memory and of folders: filled, sent, locked."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import ftjax
from ftjax.core import mirror
from ftjax.run import lock, workdirs
from ftjax.train import checkpoint
from tests.lab import LONGEST_S, ROOT, environment, finish, metrics, start
from tests.stand_in_store import URL, objects, texts, write


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """A store in memory has what was written at once."""
    monkeypatch.setattr(workdirs, "SETTLE_S", 0.0)


# -- workdirs --------------------------------------------------------------------------------------


def test_a_path_is_itself(tmp_path):
    with workdirs.opened(str(tmp_path)) as folder:
        assert folder == tmp_path
    with workdirs.read(tmp_path) as folder:
        assert folder == tmp_path
    with pytest.raises(ValueError, match="--workdir: got the path gs:/b/x; expected a URL as text"):
        workdirs.opened(mirror.pathlib.Path("gs://b/x")).__enter__()


def test_what_was_refused_leaves_nothing(machine, store):
    with workdirs.opened(URL) as folder:
        assert objects(store) == {"lock.json", "mirror.json"}
    assert objects(store) == set()
    assert not folder.exists()


def test_files_follow_a_run_and_failures_are_one_line(machine, store, monkeypatch, capsys):
    monkeypatch.setattr(workdirs, "SEND_S", 0.01)
    pipe, fails = type(store).pipe_file, [False]

    def may_fail(self, *args, **kwargs):
        if fails[0]:
            raise OSError("no route\nto host")
        return pipe(self, *args, **kwargs)

    monkeypatch.setattr(type(store), "pipe_file", may_fail)
    with workdirs.opened(URL) as folder:
        write(folder, {"a": "1"})
        wait(lambda: "a" in objects(store))
        fails[0] = True
        write(folder, {"b": "1"})
        told = []
        wait(lambda: told.append(capsys.readouterr().err) or "no route to host" in "".join(told))
        time.sleep(0.05)
        fails[0] = False
        wait(lambda: "b" in objects(store))
    told = "".join(told) + capsys.readouterr().err
    assert told.count("not written (no route to host); tried again") == 1
    assert f"{URL}: written again" in told
    assert f"{URL}: as {folder}" in told
    monkeypatch.setattr(workdirs, "SEND_S", 99)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(ValueError, match=r"last files could not be written .*the same command on"):
        write_and_fail(fails)
    fails[0] = False
    with pytest.raises(ZeroDivisionError), workdirs.opened(URL):  # its own error is shown
        1 / 0  # noqa: B018
    assert "c" in objects(store)


def write_and_fail(fails):
    with workdirs.opened(URL) as folder:
        write(folder, {"c": "1"})
        fails[0] = True


def wait(holds, longest=20.0):
    end = time.monotonic() + longest
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def locked(store, **changes):
    text = {"host": workdirs.socket.gethostname(), "pid": os.getpid(),
            "start": lock.started(os.getpid()), "time": time.time(), "id": "x"}  # fmt: skip
    store.pipe("/bucket/runs/mine/lock.json", json.dumps(text | changes).encode())


def test_one_writer_at_a_time(machine, store, monkeypatch):
    with workdirs.opened(URL):
        message = rf"--workdir: got '{URL}', which process {os.getpid()} on .*one run per workdir"
        with pytest.raises(ValueError, match=message), workdirs.opened(URL):
            pass
        assert "lock.json" in objects(store)
    locked(store, start="0")  # a process of this host that has died
    with workdirs.opened(URL):
        pass
    assert objects(store) == set()
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    monkeypatch.setattr(lock, "DEAD_S", 0.1)
    locked(store, host="elsewhere")
    with workdirs.opened(URL):  # nobody touched it
        pass
    locked(store, host="elsewhere")
    reads = iter(range(100))
    read = mirror.Mirror.read

    def touched(self, name):
        if name == "lock.json" and next(reads) == 2:
            locked(store, host="elsewhere", time=time.time() + 1)
        return read(self, name)

    monkeypatch.setattr(mirror.Mirror, "read", touched)
    with (
        pytest.raises(ValueError, match=r"process .* on elsewhere writes to"),
        workdirs.opened(URL),
    ):
        pass


def test_of_two_that_lock_at_once_the_last_has_it(machine, store, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: locked(store, host="elsewhere"))
    with pytest.raises(ValueError, match="on elsewhere writes to"), workdirs.opened(URL):
        pass
    assert json.loads(store.cat_file("/bucket/runs/mine/lock.json"))["host"] == "elsewhere"


def test_a_run_whose_lock_was_taken_over_ends(machine, store, monkeypatch):
    left = []
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    monkeypatch.setattr(lock, "leave", left.append)
    with workdirs.opened(URL):
        locked(store, host="elsewhere")
        wait(lambda: left)
    assert left[0] == f"{URL}/lock.json"


def test_a_reader_adds_and_locks_nothing(machine, store):
    with workdirs.opened(URL) as folder:
        write(folder, {"config.json": "{}"})
    machine("second")
    with workdirs.read(URL) as folder:
        assert texts(folder) == {"config.json": "{}"}
        assert "lock.json" not in objects(store)
        write(folder, {"evals/compare_4.json": "{}"})
    machine("first")
    with workdirs.opened(URL) as folder:
        assert "evals/compare_4.json" in texts(folder)


def test_a_reader_beside_a_run_reads_its_folder(machine, store):
    with workdirs.opened(URL) as folder:
        write(folder, {"config.json": "{}"})
        with workdirs.read(URL) as seen:
            assert seen == folder
            assert texts(seen) == {"config.json": "{}"}  # which was not sent yet


# -- a run -----------------------------------------------------------------------------------------

CONFIG = """
from configs import common


def get_config():
    c = common.base()
    c.model.base = {base!r}
    c.adapter = dict(name="lora", where="blocks/**", rank=2, alpha=4.0)
    c.data = dict(name="jsonl", path={rows!r}, kind="prompt", max_tokens=64)
    c.optim.learning_rate = 0.01
    c.steps, c.batch_size, c.log_every_steps, c.checkpoint.every_steps = 4, 8, 1, 2
    c.evals.task = dict(name="nll", group="new", data=dict(name="jsonl", path={rows!r}), rows=4)
    return c
"""


@pytest.fixture
def config(lab, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CONFIG.format(base=str(lab.root / "base"), rows=str(lab.root / "rows.jsonl")))
    return path


def weights(workdir):
    return (workdir / "export" / "adapter_model.safetensors").read_bytes()


def test_a_run_goes_on_from_its_bucket_on_another_machine(
    machine, store, config, tmp_path, monkeypatch, use_devices
):
    use_devices(1)
    whole = ftjax.train(str(config), str(tmp_path / "whole")).workdir
    # Behind its first checkpoint nothing reaches the bucket any more, as of a machine that dies.
    save, pipe, gone = checkpoint.Checkpoints.save, type(store).pipe_file, []

    def save_and_die(self, number, *args, **kwargs):
        save(self, number, *args, **kwargs)
        if number == 2:
            self.wait()
            wait(lambda: f"checkpoints/{number}/digest.json" in named(store))
            gone.append(True)

    def fails(self, *args, **kwargs):
        if gone:
            raise OSError("no route to host")
        return pipe(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", save_and_die)
        patch.setattr(type(store), "pipe_file", fails)
        patch.setattr(workdirs, "SEND_S", 0.01)
        patch.setattr(workdirs, "TRIES", 1)
        with pytest.raises(ValueError, match="the last files could not be written"):
            ftjax.train(str(config), URL)
    shutil.rmtree(tmp_path / "first")
    machine("second")
    workdir = ftjax.train(str(config), URL).workdir
    assert workdir.is_relative_to(tmp_path / "second")
    assert metrics(workdir) == metrics(whole)
    assert weights(workdir) == weights(whole)
    machine("third")
    run = ftjax.load(URL)
    assert (run.step, weights(run.workdir)) == (4, weights(whole))
    assert ftjax.evaluate(run)["step"] == 4


def named(store):
    try:
        return json.loads(store.cat_file("/bucket/runs/mine/mirror.json"))["files"]
    except FileNotFoundError:
        return {}


LAUNCH = """
from ftjax.run import workdirs

workdirs.SEND_S, workdirs.SETTLE_S = 0.05, 0.0
from experiments import cli, train

if __name__ == "__main__":
    cli.run(train.main, train.define())
"""


def launch(script, *arguments, cache):
    own = environment() | dict(FTJAX_CACHE=str(cache), PYTHONPATH=str(ROOT))
    command = [sys.executable, str(script), *map(str, arguments)]
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=ROOT, env=own, **pipe)


def test_killed_and_begun_again_on_another_machine(config, tmp_path, monkeypatch):
    """The commands, over a folder behind file://, which has a store's ways: whole objects alone."""
    config.write_text(config.read_text().replace("= 4, 8, 1, 2", "= 16, 8, 1, 4"))
    script, bucket = tmp_path / "launch.py", tmp_path / "bucket" / "run"
    script.write_text(LAUNCH)
    flags = ("--config", config, "--workdir", f"file://{bucket}")
    process = launch(script, *flags, cache=tmp_path / "first")
    index = bucket / "mirror.json"
    wait(lambda: process.poll() is not None or (
        index.is_file() and "checkpoints/" in index.read_text()
    ), longest=LONGEST_S)  # fmt: skip
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert not (bucket / "summary.json").exists()
    shutil.rmtree(tmp_path / "first")
    code, out, err = finish(launch(script, *flags, cache=tmp_path / "second"))
    assert code == 0, err
    assert "resumed at step" in err
    assert f"file://{bucket}: as {tmp_path}/second" in err
    whole = tmp_path / "whole"
    assert finish(start("--config", config, "--workdir", whole))[0] == 0
    assert metrics(bucket) == metrics(whole)
    assert weights(bucket) == weights(whole)
    assert not (bucket / "lock.json").exists()
    monkeypatch.setenv("FTJAX_CACHE", str(tmp_path / "third"))
    code, out, err = finish(start("--workdir", f"file://{bucket}", main="evaluate"))
    assert code == 0, err
    assert "nll" in out
    assert json.loads((bucket / "evals" / "compare_16.json").read_text())["step"] == 16
    shown = ("--workdir", f"file://{bucket}", "--out", tmp_path / "out")
    assert finish(start(*shown, main="export"))[0] == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == weights(whole)
