"""The benchmark of launches: when a run has stepped and ended, and what lies between."""

import json

import pytest

from ftjax.launch.lib import jobs
from scripts import bench_sweep


def test_a_row_of_a_step_is_whole_and_no_evaluation_before_it():
    first, second = (json.dumps({"step": step}) for step in (0, 1))
    assert not bench_sweep.has_stepped("")
    assert not bench_sweep.has_stepped(f"{first}\n{second[:-1]}")
    assert bench_sweep.has_stepped(f"{first}\n{second}\n")


def test_what_lies_between_is_from_each_end_to_the_next_first_step(tmp_path):
    watch = bench_sweep.Watch(tmp_path)
    watch.steps, watch.ends = {"b": 9.0, "a": 1.0, "c": 16.0}, {"a": 5.0, "b": 12.0, "c": 17.0}
    assert watch.between() == [4.0, 4.0]


def test_a_watch_sees_files_as_they_come(tmp_path):
    watch, own = bench_sweep.Watch(tmp_path), tmp_path / "a"
    own.mkdir()
    (own / "metrics.jsonl").write_text('{"step": 0}\n')
    watch.look()
    assert (watch.steps, watch.ends) == ({}, {})
    (own / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    watch.look()
    assert list(watch.steps) == ["a"]
    (own / bench_sweep.ENDS_WITH).write_text("")
    watch.look()
    assert list(watch.ends) == ["a"]
    assert watch.steps["a"] < watch.ends["a"]


def test_its_runs_differ_in_numbers_alone(tmp_path):
    config = tmp_path / "c.py"
    config.write_text(bench_sweep.CONFIG.format(steps=6, jobs=3, cache=""))
    found = jobs.plan(str(config), tmp_path / "sweep")
    assert [job.config["optim"]["learning_rate"] for job in found] == pytest.approx(
        [1e-3, 2e-3, 3e-3]
    )
    shapes = [(job.config["batch_size"], job.config["adapter"]["rank"]) for job in found]
    assert len(set(shapes)) == 1
