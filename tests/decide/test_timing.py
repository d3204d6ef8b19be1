import dataclasses
import types

import pytest

from ftjax.decide import answering, config, timing

DECISION = config.Decision(latency_rows=1, latency_rounds=3, batch_size=2)
RECORDS = {name: {"digest": f"{name}-1"} for name in ("plain", "rag")} | {"full": {"error": "no"}}


SLOWER = (4.0, 1.0, 2.0)  # the machine in each round


@pytest.fixture
def asked(monkeypatch):
    """What is measured, in order: "rag" takes thrice the reference, which takes a second at least.

    In the last round a third program is in the way of one batch.
    """
    calls = []

    def once(own, label, record, beside):
        assert beside == "reference"
        calls.append(label)
        slower, times = SLOWER[calls.count(label) - 1], 3.0 if label == "rag" else 1.5
        pairs = [(times * slower, slower)] * 3
        if calls.count(label) == 3:
            pairs[1] = (90.0, slower)
        found = answering.Timing([slower, 2 * slower], [3 * slower] * 2, pairs)
        return timing.Round(found, 0.25 * slower if label == "rag" else None)

    monkeypatch.setattr(timing, "_once", once)
    return calls


def of(tmp_path, **changes):
    decision = dataclasses.replace(DECISION, **changes)
    answerer = types.SimpleNamespace(batch=lambda *_: "reference", batch_size=2)
    sets = types.SimpleNamespace(test=[])
    return types.SimpleNamespace(
        decision=decision, workdir=tmp_path, answerer=answerer, sets=sets, base=None
    )


def test_arms_take_turns_and_times_are_those_beside_the_reference(asked, tmp_path):
    found = timing.timed(of(tmp_path), RECORDS)
    assert asked == ["plain", "rag"] * 3
    alone = {"first_s": 1.5, "first_p95_s": 1.95, "whole_s": 3.0, "whole_p95_s": 3.0}
    assert found["plain"]["latency"] == alone | {"batch_s": 0.75, "reference_s": 0.5}
    assert found["rag"]["latency"] == alone | {"batch_s": 1.5, "reference_s": 0.5}
    assert [found[label]["search_s"] for label in ("plain", "rag")] == [None, 0.25]
    assert found["full"] == {"error": "no"}


def test_what_was_measured_is_read_back_until_an_arm_or_the_way_changes(
    asked, tmp_path, monkeypatch
):
    first = timing.timed(of(tmp_path), RECORDS)
    assert timing.timed(of(tmp_path), RECORDS) == first
    assert len(asked) == 6
    monkeypatch.setattr(timing, "VERSION", timing.VERSION + 1)
    asked.clear()
    timing.timed(of(tmp_path), RECORDS)
    assert len(asked) == 6
    asked.clear()
    timing.timed(of(tmp_path), RECORDS | {"rag": {"digest": "rag-2"}})
    assert len(asked) == 6


def test_without_rows_nothing_is_timed(asked, tmp_path):
    found = timing.timed(of(tmp_path, latency_rows=0), RECORDS)
    assert (found["rag"]["latency"], found["rag"]["search_s"]) == (None, None)
    assert not asked


def test_two_programs_are_timed_in_turn(monkeypatch):
    clock, done = [0.0], []
    monkeypatch.setattr(answering.time, "perf_counter", lambda: clock[0])

    def program(name, seconds):
        def run():
            done.append(name)
            clock[0] += seconds

        return run

    assert answering.paired(program("arm", 2.0), program("base", 1.0)) == [(2.0, 1.0)] * 3
    assert done == ["arm", "base"] + ["base", "arm"] * 3  # the first ones compile
    clock[0] = 0.0
    assert len(answering.paired(program("arm", 0.03125), program("base", 0.03125))) == 4
