"""Steps that are traced: which, where the trace goes, and that it ends whatever ends the run."""

import types

import jax
import pytest
from absl import app

from experiments import train
from ftjax.train import tracing


@pytest.mark.parametrize(
    ("text", "steps"), [("", []), ("3", [3]), ("10:12", [10, 11, 12]), ("2:2", [2])]
)
def test_steps_are_read(text, steps):
    assert list(tracing.read(text)) == steps


@pytest.mark.parametrize("text", ["0", "5:3", "a", "1:", ":2", "1-3", "-1", "1:2:3", "1.5"])
def test_what_is_no_steps_is_refused(text):
    with pytest.raises(ValueError, match="--profile: got"):
        tracing.read(text)


def test_steps_that_a_run_does_not_have_are_refused():
    tracing.check(range(2, 5), 4)
    tracing.check((), 0)
    with pytest.raises(ValueError, match="--profile: got 2:4 of a run of 3 steps"):
        tracing.check(range(2, 5), 3)


@pytest.fixture
def told(monkeypatch):
    """Note what is asked of the profiler."""
    found = []
    fake = types.SimpleNamespace(
        start_trace=lambda folder: found.append(("start", folder)),
        stop_trace=lambda: found.append("stop"),
        StepTraceAnnotation=jax.profiler.StepTraceAnnotation,
    )
    monkeypatch.setattr(jax, "profiler", fake)
    return found


def go(trace, told, steps):
    for number in steps:
        assert trace(number, lambda *given: told.append(given) or 7, number, "batch") == 7


def test_the_trace_begins_and_ends_around_its_steps(told, tmp_path, capsys):
    with tracing.opened(range(2, 4), tmp_path) as trace:
        go(trace, told, [1, 2, 3, 4])
    calls = [(n, "batch") for n in (1, 2, 3, 4)]
    assert told == [calls[0], ("start", tmp_path), *calls[1:3], "stop", calls[3]]
    assert capsys.readouterr().err == f"profile: 2 steps in {tmp_path}\n"


def test_a_run_that_ends_early_keeps_what_was_traced(told, tmp_path, capsys):
    def fails():
        with tracing.opened(range(2, 9), tmp_path) as trace:
            go(trace, told, [1, 2])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert told[-1] == "stop"
    assert "profile: 1 steps" in capsys.readouterr().err


def test_steps_that_were_done_before_are_said(told, tmp_path, capsys):
    with tracing.opened(range(2, 4), tmp_path) as trace:  # of a run resumed at step 5
        go(trace, told, [6])
    assert told == [(6, "batch")]
    assert "none of the steps 2:3 was run" in capsys.readouterr().err


def test_a_run_that_asks_for_none_hears_of_none(told, tmp_path, capsys):
    with tracing.opened((), tmp_path) as trace:
        go(trace, told, [1])
    assert told == [(1, "batch")]
    assert capsys.readouterr().err == ""


def test_a_trace_of_nothing_is_refused():
    values = dict.fromkeys(train.Flags._fields) | dict(workdir="w", dry_run=True, profile="2")
    given = train.Flags(**{k: types.SimpleNamespace(value=v) for k, v in values.items()})
    with pytest.raises(app.UsageError, match="--profile: got it where nothing is trained"):
        train.check(["train"], given)
    assert not train.check(["train"], given._replace(dry_run=types.SimpleNamespace(value=False)))
