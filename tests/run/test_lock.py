"""One writer per workdir, and errors before training for what cannot be written or is not ours."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest

from ftjax.run import damage, lock
from ftjax.run.artifacts import Artifacts
from ftjax.train import stop

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def own(tmp_path):
    return Artifacts(tmp_path / "run")


def test_a_second_writer_is_refused_and_the_first_named(own):
    with lock.writer(own):
        known = json.loads(own.lock.read_text())
        assert (known["host"], known["pid"]) == (socket.gethostname(), os.getpid())
        with pytest.raises(ValueError, match=rf"process {os.getpid()} on .*one run per workdir"):
            with lock.writer(own):
                pass
        assert own.lock.exists()
    assert not own.workdir.exists()  # nothing was written, so nothing stays


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def locked(own, **known):
    """Write a lock as another process would."""
    own.workdir.mkdir(exist_ok=True)
    own.lock.write_text(json.dumps({"time": "then", "pid": 1, "start": "1"} | known))


def test_the_lock_of_a_dead_process_is_taken_over(own):
    for pid, start in ((dead_process(), "1"), (os.getpid(), "another process had this number")):
        locked(own, host=socket.gethostname(), pid=pid, start=start)
        with lock.writer(own):
            assert json.loads(own.lock.read_text())["time"] != "then"


def test_a_dead_process_that_nobody_waited_for_holds_no_lock(own):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = lock.started(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    locked(own, host=socket.gethostname(), pid=process.pid, start=start)
    with lock.writer(own):
        assert json.loads(own.lock.read_text())["pid"] == os.getpid()
    process.communicate()


@pytest.fixture
def hurried(monkeypatch):
    """Beats that a test can wait for."""
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    monkeypatch.setattr(lock, "DEAD_S", 0.3)


@pytest.mark.parametrize("content", ['{"host": "elsewhere", "pid": 1, "start": "1"}', '{"host": '])
def test_the_lock_of_another_host_is_taken_over_once_nobody_touches_it(own, hurried, content):
    own.workdir.mkdir()
    own.lock.write_text(content)
    with lock.writer(own):
        assert json.loads(own.lock.read_text())["pid"] == os.getpid()


def test_the_lock_of_a_living_run_on_another_host_is_refused(own, hurried, monkeypatch, capsys):
    monkeypatch.setattr(lock, "DEAD_S", 30.0)  # longer than any machine lets a thread wait
    with lock.writer(own):  # its thread touches the lock
        monkeypatch.setattr(socket, "gethostname", lambda: "here")
        with pytest.raises(ValueError, match=r"writes to since .*or remove .*lock"):
            with lock.writer(own):
                pass
    assert "taken over at 30 s" in capsys.readouterr().err


def test_an_old_lock_is_judged_by_the_clock_of_its_file_system(own, monkeypatch):
    locked(own, host="elsewhere")
    hour = 3600
    os.utime(own.lock, (os.stat(own.lock).st_mtime - hour,) * 2)
    monkeypatch.setattr(lock.time, "time", lambda: 0.0)  # a host whose clock is wrong
    with lock.writer(own):
        assert json.loads(own.lock.read_text())["pid"] == os.getpid()


def test_a_run_whose_lock_was_taken_writes_nothing_more(own, hurried, monkeypatch):
    left = threading.Event()
    monkeypatch.setattr(lock, "leave", lambda path: left.set())
    with lock.writer(own):
        locked(own, host="elsewhere")
        assert left.wait(30)
    assert json.loads(own.lock.read_text())["host"] == "elsewhere"  # it is that run's


PAIR = """
import pathlib, sys
from ftjax.core import processes
processes.start(coordinator=sys.argv[1], processes=2, index=int(sys.argv[2]))
from ftjax.run import lock
from ftjax.run.artifacts import Artifacts
try:
    with lock.writer(Artifacts(sys.argv[3])):
        print("wrote")
except (ValueError, RuntimeError) as error:
    print(type(error).__name__, error)
"""


def test_what_the_first_process_cannot_lock_ends_the_others_too(tmp_path):
    (tmp_path / "run").write_text("")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = lambda i: [sys.executable, "-c", PAIR, address, str(i), str(tmp_path / "run")]
    options = dict(stdout=subprocess.PIPE, text=True, cwd=ROOT)
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    pair = [subprocess.Popen(command(i), env=env, **options) for i in (0, 1)]
    first, second = (process.communicate(timeout=100)[0] for process in pair)
    assert "ValueError --workdir: got " in first
    assert "RuntimeError process 0: --workdir: got " in second


def test_a_directory_of_a_model_is_refused(own):
    own.workdir.mkdir()
    own.config.write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"config.json has no 'seed'.*another"):
        with lock.writer(own):
            pass
    assert own.config.read_text() == '{"model_type": "llama"}'


@pytest.mark.parametrize("name", ["run", "run/checkpoints"])
def test_files_in_place_of_directories_are_named(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    with pytest.raises(ValueError, match=rf"got .*{name}, a file; expected a directory"):
        with lock.writer(Artifacts(tmp_path / "run")):
            pass


def test_where_nothing_can_be_written_is_found_at_once():
    with pytest.raises(ValueError, match=r"cannot be written to .*another"):
        with lock.writer(Artifacts("/proc/run")):
            pass


def test_what_a_killed_process_left_is_removed(own):
    own.evals.mkdir(parents=True)
    (own.workdir / ".export.new").mkdir()
    (own.workdir / ".export.new" / "x").write_text("")
    (own.evals / ".0.npz.77.tmp").write_text("")
    (own.evals / "0.npz").write_text("")
    with lock.writer(own):
        assert not (own.workdir / ".export.new").exists()
        assert [path.name for path in own.evals.iterdir()] == ["0.npz"]


def test_unreadable_scores_and_samples_are_set_aside(own):
    own.evals.mkdir(parents=True)
    own.samples.mkdir()
    own.scores(0).write_bytes(b"")
    own.sample(0).write_text('[{"prompt": "x", ')
    with pytest.warns(RuntimeWarning, match=r"cannot be read .*renamed to 0\.\w+\.bad-unreadable"):
        damage.set_aside(own)
    assert own.evaluated() == own.sampled() == []
    assert (own.evals / "0.npz.bad-unreadable").exists()
    assert (own.samples / "0.json.bad-unreadable").exists()


@pytest.mark.parametrize(("saved", "code"), [(True, 0), (False, 143)])
def test_sigterm_outside_the_loop_leaves_in_order(own, saved, code):
    def terminated():
        with lock.writer(own), stop.leaving(lambda: saved):
            assert own.lock.exists()
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        terminated()
    assert left.value.code == code
    assert not own.lock.exists()
