"""One writer per workdir, and errors before training for what cannot be written or is not ours."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from ftjax.run import damage, lock
from ftjax.run.artifacts import Artifacts
from ftjax.train import stop


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


def test_the_lock_of_a_dead_process_is_taken_over(own):
    own.workdir.mkdir()
    for pid, start in ((dead_process(), "1"), (os.getpid(), "another process had this number")):
        known = {"host": socket.gethostname(), "pid": pid, "start": start, "time": "then"}
        own.lock.write_text(json.dumps(known))
        with lock.writer(own):
            assert json.loads(own.lock.read_text())["time"] != "then"
        own.workdir.mkdir(exist_ok=True)
    own.lock.write_text(json.dumps(known | {"host": "elsewhere"}))
    with pytest.raises(ValueError, match=r"on elsewhere writes to since then; .*remove .*lock"):
        with lock.writer(own):
            pass


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
