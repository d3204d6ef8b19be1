"""Pages of runs, drawn by a process beside this one while it goes on with the next run.

    with Pages() as pages:
        pages.write(path, job=path_of_job, title=..., config=..., rows=...)    # returns at once

A page takes as long to draw as ten steps of a small model, on one core, and nobody waits for that
of a run among many. At the end of the context all are there. What a page shows lies in a file, its
job, until it is drawn: where processes were killed before, `draw` draws it from there. What cannot
be drawn ends the process that draws, with its traceback, and is raised by the next call.
"""

import collections
import contextlib
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent import futures

from ftjax.core import files
from ftjax.report import page
from ftjax.report.table import Metric, Row, Table

NICENESS = 10  # the run goes first where both want a core


class Pages:
    """Pages that are drawn in the order in which they are written."""

    def __init__(self):
        # One thread: it starts the process that draws, and waits for it.
        self._thread = futures.ThreadPoolExecutor(1, "pages")
        self._process: subprocess.Popen | None = None
        self._waiting: collections.deque[futures.Future] = collections.deque()

    def prepare(self) -> None:
        """Start what draws before there is a page: its imports take as long as a page."""
        if self._process is None and not self._waiting:
            self._waiting.append(self._thread.submit(self._start))

    def write(self, path: pathlib.Path, *, job: pathlib.Path, **content) -> None:
        """Have a page written to `path`; content: the other arguments of `page.write`.

        job: the file that holds them until the page is there.

        Raises:
          RuntimeError: a page before it could not be drawn.
        """
        files.write_json(job, content)
        self.draw(path, job)

    def draw(self, path: pathlib.Path, job: pathlib.Path) -> None:
        """Have a page drawn whose job is in its file already; raises as `write` does."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()
        places = [os.fspath(each.absolute()) for each in (path, job)]
        self._waiting.append(self._thread.submit(self._draw, *places))

    def _start(self) -> None:
        if self._process is None:
            self._process = _start()

    def _draw(self, path: str, job: str) -> None:
        self._start()
        try:
            self._process.stdin.write(f"{json.dumps([path, job])}\n")
            self._process.stdin.flush()
            is_drawn = bool(self._process.stdout.readline())
        except BrokenPipeError:
            is_drawn = False
        if not is_drawn:
            raise RuntimeError(
                f"{path}: got no page: what draws it ended with code {self._process.wait()}; "
                "expected one; its error is above, and the same command draws it again"
            )

    def __enter__(self) -> "Pages":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._thread.shutdown()
        if self._process is not None:
            self._process.stdout.close()
            with contextlib.suppress(BrokenPipeError):  # of one that has ended by itself
                self._process.stdin.close()  # which ends it
            self._process.wait()
        # What ends the caller is the error to show; that of a page is on the terminal already.
        for drawn in self._waiting if kind is None else ():
            drawn.result()


def _start() -> subprocess.Popen:
    code = f"import sys; sys.path[:] = {sys.path!r}; from ftjax.report import pages; pages.serve()"
    # It draws on no device. A group of its own: control-C is for the run, which then ends it. No
    # session of its own: between these Linux shares the cores evenly, whatever their niceness.
    options = dict(env=os.environ | {"JAX_PLATFORMS": "cpu"}, process_group=0)
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    return subprocess.Popen([sys.executable, "-c", code], **pipes, **options)


def serve() -> None:
    """Draw the pages that stdin names, answering each with a line, until it is closed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler asks all processes of a job
    os.nice(NICENESS)
    importlib.import_module("matplotlib.backends.backend_svg")  # slow, and every page needs it
    answers = os.dup(1)
    os.dup2(2, 1)  # what anything prints is no answer
    for line in sys.stdin:
        path, job = map(pathlib.Path, json.loads(line))
        page.write(path, **_content(files.read_json(job)))
        job.unlink()  # killed before, it is drawn once more
        with contextlib.suppress(BrokenPipeError):  # whoever waited was killed
            os.write(answers, b"\n")


def _content(job: Mapping) -> dict:
    """Return the arguments of `page.write` from JSON, which has lists for its tuples."""
    found = dict(job)
    if found.get("table"):
        columns, rows = found["table"]
        found["table"] = Table(tuple(columns), tuple(_row(*each) for each in rows))
    for name in {"jobs", "costs"} & found.keys():
        found[name] = found[name] and page.Grid(*found[name])
    sample = lambda each: page.Sample(*each)
    found["samples"] = [sample(each) for each in found.get("samples", ())]
    found["failures"] = [
        page.Failure(label, what, sample(each)) for label, what, each in found.get("failures", ())
    ]
    return found


def _row(*given) -> Row:
    *own, stated = given
    return Row(*own, stated=stated and Metric(*stated))
