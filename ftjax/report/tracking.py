"""Rows of metrics to a service: `tracker = dict(name="wandb", project="mine")`.

    check(config.tracker)                          # before anything is read: is the package there?
    writer = build(config.tracker, run=Run(...))

`name` is a module of `ftjax/report/trackers`, or a dotted path. Its `make(*, project, run)` imports
its package and returns a `Service`. What goes wrong there later, a network or a quota, never stops
a run: it is said once. The id of the run at the service is kept in a file of the workdir, under
which a resumed run goes on.
"""

import importlib.util
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ftjax.core import config as conf
from ftjax.core import files

ROOM = "report.trackers"
FAILURES = (ImportError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError)


class Run(NamedTuple):
    """What a service hears of a run; group: what runs of one sweep have in common."""

    name: str
    group: str
    config: Mapping[str, Any]


class Service(NamedTuple):
    """What a tracker does.

    start: id of the run that is resumed, or "" -> its id. log: (row of numbers, step). failures:
    exceptions of its package, beside Python's own.
    """

    start: Callable[[str], str]
    log: Callable[[dict, int], Any]
    finish: Callable[[], Any]
    failures: tuple[type[Exception], ...]


def check(spec: Mapping) -> None:
    """Check what can be known of a tracker before a run begins.

    Raises:
      ValueError: there is no such tracker, it has no project, or its package is not installed.
    """
    if not (name := spec.get("name")):
        return
    package = conf.attribute(name, ROOM, "PACKAGE", where="tracker.name")
    if not spec.get("project"):
        raise ValueError(f"tracker.project: got none for {name!r}; expected a name; set it")
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"tracker.name: got {name!r}, and the package {package!r} is not installed; expected "
            f'it; run `pip install "ftjax[{package}]"`, or leave the name empty'
        )


def build(spec: Mapping, *, run: Run, path: pathlib.Path) -> "Tracker":
    """Make the writer of a tracker; path: the file that keeps the run's id."""
    return Tracker(conf.build(spec, ROOM, where="tracker", run=run), spec["name"], path)


class Tracker:
    """A writer to a service; its failures never stop a run."""

    def __init__(self, service: Service, name: str, path: pathlib.Path):
        self._service, self._name, self._path = service, name, path
        self._started, self._dead = False, False

    def write(self, step: int, row: dict) -> None:
        """Send the numbers of the row, starting the run at the first."""
        self._try(self._log, step, row)

    def rewind(self, step: int) -> None:
        """Do nothing: services keep what they have, or drop rows of steps that they have seen."""

    def close(self) -> None:
        """Finish the run."""
        if self._started:
            self._try(self._service.finish)

    def _log(self, step: int, row: dict) -> None:
        if not self._started:
            known = files.read_json(self._path) if self._path.exists() else {}
            found = self._service.start(known.get(self._name, ""))
            files.write_json(self._path, known | {self._name: found})
            self._started = True
        self._service.log({key: value for key, value in row.items() if value is not None}, step)

    def _try(self, call: Callable, *args) -> None:
        if self._dead:
            return
        try:
            call(*args)
        # Network, log-in, quota, another version: none of it is worth the run.
        except (*FAILURES, *self._service.failures) as error:
            self._dead = True
            warnings.warn(
                f"{self._name}: {type(error).__name__}: {error}; training goes on without it",
                RuntimeWarning,
                stacklevel=3,
            )
