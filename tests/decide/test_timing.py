import dataclasses
import types

import pytest

from ftjax.decide import config, timing

DECISION = config.Decision(latency_rows=1, latency_rounds=3)
RECORDS = {name: {"digest": f"{name}-1"} for name in ("plain", "rag")} | {"full": {"error": "no"}}


@pytest.fixture
def asked(monkeypatch):
    """What is measured, in order; the first round of each arm is the slowest but for searches."""
    calls = []

    def once(own, label, record):
        calls.append(label)
        round_number = calls.count(label)
        search_s = 0.25 * round_number if label == "rag" else None
        return {"first_s": 1.0, "batch_s": 5.0 - round_number, "search_s": search_s}

    monkeypatch.setattr(timing, "_once", once)
    return calls


def of(tmp_path, **changes):
    decision = dataclasses.replace(DECISION, **changes)
    return types.SimpleNamespace(decision=decision, workdir=tmp_path)


def test_arms_take_turns_and_the_least_counts(asked, tmp_path):
    found = timing.timed(of(tmp_path), RECORDS)
    assert asked == ["plain", "rag"] * 3
    assert found["plain"]["latency"] == {"first_s": 1.0, "batch_s": 2.0}
    assert [found[label]["search_s"] for label in ("plain", "rag")] == [None, 0.25]
    assert found["full"] == {"error": "no"}


def test_what_was_measured_is_read_back_until_an_arm_changes(asked, tmp_path):
    first = timing.timed(of(tmp_path), RECORDS)
    assert timing.timed(of(tmp_path), RECORDS) == first
    assert len(asked) == 6
    timing.timed(of(tmp_path), RECORDS | {"rag": {"digest": "rag-2"}})
    assert len(asked) == 12


def test_without_rows_nothing_is_timed(asked, tmp_path):
    found = timing.timed(of(tmp_path, latency_rows=0), RECORDS)
    assert (found["rag"]["latency"], found["rag"]["search_s"]) == (None, None)
    assert not asked
