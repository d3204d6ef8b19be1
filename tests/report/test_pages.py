"""Pages that a process of their own draws are those that this one would draw, and none is lost."""

import inspect
import os
import signal
import subprocess
import sys

import pytest

from ftjax.core import files
from ftjax.report import page
from ftjax.report.pages import Pages
from ftjax.report.table import Metric, table

RUNS = {"before": {"eval/sql/nll": 1.9, "eval/sql/own": 3}, "after": {"eval/sql/nll": 0.5}}
SIDES = {"before": {"eval/sql/nll": (1.8, 2.0)}, "after": {"eval/sql/nll": (0.4, 0.6)}}
SAMPLE = page.Sample("Count.", {"before": "no", "after": "SELECT"}, "SELECT 1")
CONTENT = dict(
    title="one <two>", config={"steps": 3, "betas": (0.9, 0.99)},
    rows=[{"step": n, "loss": 2.0 - n, "eval/sql/nll": 1.0 + n} for n in range(4)],
    table=table(
        RUNS, groups={"sql": "new"}, bounds=SIDES, stated={"sql": {"own": Metric(1, "bananas")}},
        intervals={"after": {"eval/sql/nll": (-1.5, -1.3)}},
    ),
    samples=[SAMPLE], failures=[page.Failure("sql", "wrong", SAMPLE)],
    jobs=page.Grid(["job"], [["1"]]), effects={"loss over lr": "<svg></svg>"},
    costs=page.Grid(["", "after"], [["tokens", "9"]]),
    facts={"steps": 3}, made={"host": "here"}, links={"evals": "scores"},
)  # fmt: skip


def test_they_are_the_pages_of_the_caller(tmp_path):
    assert {"path", *CONTENT} == inspect.signature(page.write).parameters.keys()
    empty = dict(title="empty", config={})
    wanted = [page.write(tmp_path / "here.html", **own).read_bytes() for own in (CONTENT, empty)]
    found = [tmp_path / "first.html", tmp_path / "second.html"]
    with Pages() as pages:
        for path, own in zip(found, (CONTENT, empty), strict=True):
            pages.write(path, job=path.with_suffix(".json"), **own)
    assert [path.read_bytes() for path in found] == wanted
    assert sorted(path.name for path in tmp_path.glob("*.json")) == []


def test_one_that_cannot_be_drawn_is_raised_and_its_job_is_kept(tmp_path, capfd):
    path, job = tmp_path / "one.html", tmp_path / "one.json"

    def run():
        with Pages() as pages:
            pages.write(path, job=job, **CONTENT | {"rows": 3})

    with pytest.raises(RuntimeError, match=r"one\.html: got no page: .* ended with code 1"):
        run()
    assert "Traceback" in capfd.readouterr().err
    files.write_json(job, files.read_json(job) | {"rows": []})
    with Pages() as pages:
        pages.draw(path, job)
    assert "one &lt;two&gt;" in path.read_text()


def test_it_is_raised_by_the_next_call(tmp_path):
    with Pages() as pages:
        pages.write(tmp_path / "one.html", job=tmp_path / "1.json", **CONTENT | {"rows": 3})
        pages._waiting[0].exception()  # waits for it
        with pytest.raises(RuntimeError, match=r"one\.html: got no page"):
            pages.write(tmp_path / "two.html", job=tmp_path / "2.json", **CONTENT)


def test_what_ended_the_caller_is_shown(tmp_path):
    def run():
        with Pages() as pages:
            pages.write(tmp_path / "one.html", job=tmp_path / "1.json", **CONTENT | {"rows": 3})
            raise KeyError("the cause")

    with pytest.raises(KeyError, match="the cause"):
        run()


def test_the_page_under_way_outlives_a_kill(tmp_path):
    path, job = tmp_path / "one.html", tmp_path / "one.json"
    code = f"""
import os, pathlib, signal, time
from ftjax.report.pages import Pages
pages = Pages()
pages.write(pathlib.Path({str(path)!r}), job=pathlib.Path({str(job)!r}), title="x", config={{}})
while pages._process is None:
    time.sleep(0.01)
time.sleep(0.5)  # it is told
os.kill(os.getpid(), signal.SIGKILL)
"""
    # It waits for both: what draws has the pipe too.
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert "</html>" in path.read_text()
    assert not job.exists()
    assert ended.stderr == b""


def test_it_starts_once(tmp_path):
    with Pages() as pages:
        for _ in range(2):
            pages.prepare()
        started = pages._waiting[0].result() or pages._process
        # Control-C, which a terminal sends to a group, is not for it; niceness counts in a session.
        assert os.getpgid(started.pid) != os.getpgid(0)
        assert os.getsid(started.pid) == os.getsid(0)
        pages.prepare()
        pages.write(tmp_path / "one.html", job=tmp_path / "1.json", title="x", config={})
    assert pages._process is started
    assert started.returncode == 0
    assert (tmp_path / "one.html").exists()
