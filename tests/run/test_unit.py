"""How a job stands, whatever ends it: read from its workdir alone."""

import json
import os
import socket

import pytest

from ftjax.run import lock, unit
from ftjax.run.artifacts import Artifacts


@pytest.fixture
def own(tmp_path):
    return Artifacts(tmp_path / "job")


def run(own, *, error=None, done=False):
    try:
        with lock.writer(own), unit.Recorded(own):
            assert unit.read(own).state in ("running", "new")
            unit.Progress(own).write(7, {"loss": 1.0})
            if error is not None:
                raise error
            if done:
                unit.finish(own)
    except type(error or ValueError()):
        assert error is not None


def test_a_run_of_no_sweep_keeps_no_file(own):
    run(own, done=True)
    assert not own.unit.exists()
    assert unit.read(own) == unit.Unit()


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (None, "stopped", ""),
        (SystemExit(0), "stopped", ""),
        (KeyboardInterrupt(), "stopped", ""),
        (FloatingPointError("step 7:\n a loss of nan"), "diverged", "step 7: a loss of nan"),
        (ValueError("data.path: got 3"), "failed", "data.path: got 3"),
        (KeyError("x"), "failed", "KeyError: 'x'"),
    ],
)
def test_how_it_ended(own, error, state, reason):
    unit.submit(own)
    assert unit.read(own).state == "submitted"
    run(own, error=error)
    found = unit.read(own)
    assert (found.state, found.reason, found.attempt, found.step) == (state, reason, 1, 7)
    unit.submit(own)
    run(own, done=True)
    found = unit.read(own)
    assert (found.state, found.reason, found.attempt) == ("done", "", 2)


def test_seconds_add_up_over_attempts(own, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(unit.time, "time", lambda: clock[0])
    unit.submit(own)
    with lock.writer(own), unit.Recorded(own):
        clock[0] += 5
    assert unit.read(own).spent == 5
    with lock.writer(own), unit.Recorded(own):
        clock[0] += 2
        unit.Progress(own).write(1, {})
        assert unit.read(own).spent == 7
        clock[0] += 1
        unit.finish(own)
    assert unit.read(own).spent == 8


def test_a_run_that_nobody_runs_is_stale(own):
    unit.submit(own)
    with lock.writer(own), unit.Recorded(own):
        assert unit.read(own).state == "running"
        held = own.lock.read_text()
        own.lock.unlink()
        assert unit.read(own).state == "stale"
        own.lock.write_text(json.dumps(json.loads(held) | dict(start="another")))
        assert unit.read(own).state == "stale"
        own.lock.write_text(held)
        assert unit.read(own).state == "running"


def test_a_run_of_another_host_lives_while_its_lock_is_touched(own, monkeypatch):
    unit.submit(own)
    with lock.writer(own), unit.Recorded(own):
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        assert unit.read(own).state == "running"
        past = os.stat(own.lock).st_mtime - 10 * lock.DEAD_S
        os.utime(own.lock, (past, past))
        assert unit.read(own).state == "stale"


@pytest.mark.parametrize("content", ['{"state": "asleep"}', '{"mood": 3}'])
def test_a_file_of_something_else_is_named(own, content):
    own.workdir.mkdir()
    own.unit.write_text(content)
    with pytest.raises(ValueError, match=r"unit.json: got .*expected one of new, submitted"):
        unit.read(own)
