"""One row a job: of finished ones what they learned, of the others why not."""

import csv
import io

import pytest

from ftjax.core import files
from ftjax.launch.lib import jobs as jobs_lib
from ftjax.launch.lib import results
from ftjax.launch.lib.jobs import Job
from ftjax.report import table
from ftjax.run import unit


@pytest.fixture
def jobs(tmp_path):
    """Three finished jobs and one that diverged."""
    found = []
    for number, nll in enumerate([1.5, 0.5, 1.0, None]):
        config = {"optim": {"learning_rate": 10.0**-number, "name": "adamw"}, "where": ["a", "b"]}
        job = Job(f"job{number}", f"rate {number}", (), tmp_path / f"job{number}", config)
        found.append(job)
        unit.submit(job.artifacts)
        if nll is None:
            unit._write(job.artifacts, unit.Unit(), state="diverged", reason="loss <nan>", step=3)
            continue
        unit._write(job.artifacts, unit.Unit(), state="done", attempt=1, step=9, seconds=2.25)
        row = table.Row("held", "nll", "new", (2.0, nll), (None, (nll - 2.1, nll - 1.9)))
        files.write_json(job.artifacts.summary, {
            "flops": 3e9, "metrics": {"loss": 0.25, "eval/held/nll": nll, "time/step_s": 3.0},
            "learned": [row._asdict()],
        })  # fmt: skip
        job.artifacts.metrics.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n')
    return found


def test_a_row_has_what_varies_and_intervals_of_changes(jobs):
    first, *_, last = results.rows(jobs)
    assert first == {
        "id": "job0", "label": "rate 0", "state": "done", "reason": "", "attempt": 1, "step": 9,
        "seconds": 2.2, "optim.learning_rate": 1.0, "flops": 3e9, "loss": 0.25,
        "eval/held/nll": 1.5, "eval/held/nll change": -0.5,
        "eval/held/nll low": pytest.approx(-0.6), "eval/held/nll high": pytest.approx(-0.4),
    }  # fmt: skip
    assert last == {
        "id": "job3", "label": "rate 3", "state": "diverged", "reason": "loss <nan>", "attempt": 0,
        "step": 3, "seconds": 0.0, "optim.learning_rate": 1e-3,
    }  # fmt: skip


def test_the_best_come_first_by_the_direction_of_the_metric(jobs):
    ids = lambda best: [row["id"] for row in results.ranked(results.rows(jobs), best)]
    assert ids("eval/held/nll") == ["job1", "job2", "job0", "job3"]
    with pytest.raises(ValueError, match=r"--best: got 'eval/held/nl'.* did you mean 'eval/held/n"):
        ids("eval/held/nl")


def test_both_files_have_every_job(jobs, tmp_path):
    sheet, page = results.write(jobs, tmp_path / "out", best="eval/held/nll")
    rows = list(csv.DictReader(io.StringIO(sheet.read_text())))
    assert [row["label"] for row in rows] == ["rate 1", "rate 2", "rate 0", "rate 3"]
    assert rows[3]["reason"] == "loss <nan>"
    assert rows[3]["eval/held/nll"] == ""
    text = page.read_text()
    assert "loss &lt;nan&gt;" in text
    assert text.index("rate 1") < text.index("rate 2") < text.index("rate 0")
    assert "Learned: the new task" in text
    # The loss, nll before and after, jobs by their keys, and nll over the one key that varies.
    assert text.count("<svg") == 4
    assert "eval/held/nll over optim.learning_rate</figcaption>" in text  # three are too few


def test_of_many_jobs_it_is_said_which_are_drawn(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MAX_CURVES", 2)
    text = results.write(jobs, tmp_path / "out", best="eval/held/nll")[1].read_text()
    assert "best 2 of 3 done" in text
    text = results.write(jobs, tmp_path / "out")[1].read_text()
    assert "first 2 of 3 done" in text
    assert "eval/held/nll over" in text  # the first metric of the new task


def test_a_sweep_without_evaluations_is_drawn_by_its_loss(jobs, tmp_path):
    for job in jobs[:3]:
        known = files.read_json(job.artifacts.summary) | {"learned": []}
        files.write_json(job.artifacts.summary, known)
    assert "loss over optim" in results.write(jobs, tmp_path / "out")[1].read_text()
    assert "What the keys do" not in results.write(jobs[1:], tmp_path / "out")[1].read_text()


def test_a_sweep_without_a_result_has_a_page_too(jobs, tmp_path):
    _, page = results.write(jobs[3:], tmp_path / "out")
    assert "diverged" in page.read_text()
    assert "Learned and forgotten" not in page.read_text()


def test_members_stand_in_the_place_of_their_job(jobs, tmp_path):
    first = jobs[0]
    files.write_json(first.artifacts.members, {"how": "map", "members": ["a", "b"]})
    files.write_json(first.workdir / "a" / "config.json", {"adapter": {"rank": 2}})
    found = jobs_lib.with_members(jobs[:2])
    assert [job.id for job in found] == ["job0/a", "job0/b", "job1"]
    assert [job.label for job in found] == ["rate 0/a", "rate 0/b", "rate 1"]
    assert found[0].workdir == first.workdir / "a"
    # One that has not begun has what its job says.
    assert [job.config for job in found[:2]] == [{"adapter": {"rank": 2}}, first.config]
