"""Goodput: seconds of all processes of a run by phase, and the share of its steps."""

import pytest

from ftjax.report import goodput, writers


def row(at, **seconds):
    """Make a row of a log; seconds by name, without their `time/` and `_s`."""
    return {"step": at, **{f"time/{name}_s": value for name, value in seconds.items()}}


# Ten steps, ten more; an evaluation at step 25 has no row of its own times; then five.
FIRST = [
    {"step": 0, "eval/a/nll": 1.0},
    row(10, step=2.0, data=0.5, eval=3.0, checkpoint=0.0, compile=4.0, startup=6.0),
    row(20, step=1.0, data=0.25, eval=0.0, checkpoint=1.0, compile=0.0),
    {"step": 25, "eval/a/nll": 0.9},
    row(30, step=1.0, data=0.0, eval=2.0, checkpoint=0.0, compile=0.0),
]


def test_a_log_is_added_up_by_phase():
    assert goodput.spent(FIRST) == {
        "startup": 6.0, "compile": 4.0, "steps": 15.0 + 7.5 + 10.0, "data": 5.0 + 2.5, "eval": 5.0,
        "checkpoint": 1.0, "again": 0.0,
    }  # fmt: skip
    assert goodput.total(FIRST) == 32.5 + 7.5 + 16.0


def test_a_run_of_one_process_is_its_own_clock():
    """What came after the last row is in the clock of the process, and in no row."""
    own = dict(startup=6.0, steps=33.0, compile=4.0, data=7.0, eval=9.0, checkpoint=1.0)
    found = goodput.measure(FIRST, own, wall_s=66.0)
    assert found.seconds == own | {"finish": 6.0, "again": 0.0}
    assert found.share == pytest.approx(33 / 66)
    assert list(found.seconds) == list(goodput.PHASES)


def test_a_process_that_goes_on_adds_what_was_before_and_what_it_takes_back(tmp_path):
    log = writers.Jsonl(tmp_path / "metrics.jsonl")
    for each in FIRST:
        log.write(each["step"], {k: v for k, v in each.items() if k != "step"})
    assert log.rewind(20) == 3
    assert log.again_s == 10.0 + 2.0  # of the row at step 30
    rows = [*writers.read(log.path), row(30, step=1.5, compile=1.0, startup=5.0, again=12.0)]
    own = dict(startup=5.0, steps=15.0, compile=1.0, data=0.0, eval=0.0, checkpoint=0.5)
    found = goodput.measure(rows, own, wall_s=22.0)
    before = dict(startup=6.0, compile=4.0, steps=22.5, data=7.5, eval=3.0, checkpoint=1.0)
    expected = {name: before[name] + own[name] for name in own} | {"again": 12.0, "finish": 0.5}
    assert found.seconds == pytest.approx(expected)
    assert found.share == pytest.approx(37.5 / sum(expected.values()))


def test_a_run_that_was_complete_has_the_time_of_those_before():
    nothing = dict(startup=2.0, steps=0.0, compile=0.0, data=0.0, eval=0.0, checkpoint=0.0)
    found = goodput.measure(FIRST, nothing, wall_s=3.0)
    assert found.seconds["startup"] == 8.0
    assert found.seconds["steps"] == 32.5
    assert found.seconds["finish"] == 1.0


def test_what_was_rewound_to_nothing_is_done_again(tmp_path):
    log = writers.Jsonl(tmp_path / "metrics.jsonl")
    log.write(10, {"time/step_s": 1.0, "time/startup_s": 3.0})
    log.rewind(-1)
    assert log.again_s == 13.0
    log.rewind(-1)
    assert log.again_s == 0.0


def test_a_line_leaves_out_what_took_no_time():
    seconds = dict.fromkeys(goodput.PHASES, 0.0) | {"steps": 60.0, "startup": 9.0, "again": 31.0}
    told = goodput.line(goodput.Goodput(0.6, seconds), writers.duration)
    assert told == ("goodput 60%: start-up 9 s, steps 1 min 00 s, done again after a restart 31 s")
