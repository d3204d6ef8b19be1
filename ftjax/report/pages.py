"""Pages of runs, drawn by a process beside this one while it goes on with the next run.

    with Pages() as pages:
        pages.write(path, title=..., config=..., rows=...)     # as `page.write`; returns at once

A page takes as long to draw as ten steps of a small model, on one core, and nobody waits for that
of a run among many. At the end of the context all are there. Where this process is killed, the page
under way is still drawn; one that waited is not, and is missing: an older one is gone before it
waits. What cannot be drawn ends the process that draws, with its traceback, and is raised by the
next call.
"""

import collections
import os
import pathlib
import pickle
import signal
import subprocess
import sys
from concurrent import futures

NICENESS = 10  # the run goes first where both want a core
SIZE = 8  # bytes before each job, which say how many follow


class Pages:
    """Pages that are drawn in the order in which they are written."""

    def __init__(self):
        # One thread: it waits for the process that draws, and starts it with the first page.
        self._thread = futures.ThreadPoolExecutor(1, "pages")
        self._process: subprocess.Popen | None = None
        self._waiting: collections.deque[futures.Future] = collections.deque()

    def write(self, path: os.PathLike | str, **content) -> None:
        """Have a page written to `path`; arguments as for `page.write`.

        Raises:
          RuntimeError: one before it could not be drawn.
        """
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()
        path = pathlib.Path(path).absolute()
        # Here, since the caller may change what it has handed over.
        job = pickle.dumps((path, content))
        # One that is there is up to date: whoever finds none draws it again.
        path.unlink(missing_ok=True)
        self._waiting.append(self._thread.submit(self._draw, path, job))

    def _draw(self, path: pathlib.Path, job: bytes) -> None:
        if self._process is None:
            self._process = _start()
        try:
            self._process.stdin.write(len(job).to_bytes(SIZE, "little") + job)
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
            self._process.communicate()  # closes what it reads from, which ends it
        # What ends the caller is the error to show; that of a page is on the terminal already.
        for drawn in self._waiting if kind is None else ():
            drawn.result()


def _start() -> subprocess.Popen:
    code = f"import sys; sys.path[:] = {sys.path!r}; from ftjax.report import pages; pages.serve()"
    # It draws on no device. A session of its own: control-C is for the run, which then ends it.
    options = dict(env=os.environ | {"JAX_PLATFORMS": "cpu"}, start_new_session=True)
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", code], **pipes, **options)


def serve() -> None:
    """Draw the pages that come in by stdin, answering each with a line, until it is closed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler asks all processes of a job
    os.nice(NICENESS)
    from ftjax.report import page

    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)  # what anything prints is no answer
        while head := sys.stdin.buffer.read(SIZE):
            job = sys.stdin.buffer.read(int.from_bytes(head, "little"))
            path, content = pickle.loads(job)
            page.write(path, **content)
            answers.write("\n")
