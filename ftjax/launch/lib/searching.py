"""The settings of a search: what its module proposes, from what its jobs have come to so far."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ftjax.core import config as conf
from ftjax.core import files
from ftjax.launch.lib import space as spaces
from ftjax.launch.lib.space import Overrides, Searched
from ftjax.run import unit
from ftjax.run.artifacts import Artifacts

ROOM = "launch.searches"


class Trial(NamedTuple):
    """A setting that a job has. state: open, done, diverged or failed; value: of one done."""

    overrides: Overrides
    state: str
    value: float | None = None


def overrides(
    given: Searched, earlier: Iterable[tuple[Mapping, Artifacts]] | None
) -> list[Overrides]:
    """List the settings that a search proposes.

    earlier: config and files of each job that was launched; None where there is no sweep, whose
      jobs a search that learns needs.

    Raises:
      ValueError: there is no such search, it has no such option, or the space is none.
    """
    where = "sweep(): search"
    if not given.space or not isinstance(given.count, int) or given.count < 1:
        raise ValueError(
            f"sweep(): Searched: got {len(given.space)} keys and count {given.count!r}; expected "
            "one of each at least"
        )
    propose = conf.build(given.search, ROOM, where=where)
    if not learns(given):
        return propose(given.space, given.count, ())
    if earlier is None:
        raise ValueError(
            f"{where}.name: got {given.search['name']!r}, which learns from jobs that have ended; "
            "expected one that does not, here; run experiments.sweep"
        )
    found = (_trial(given.space, *job, metric=given.search["metric"]) for job in earlier)
    return propose(given.space, given.count, [trial for trial in found if trial is not None])


def learns(given: Searched) -> bool:
    """Return whether a search proposes settings in rounds, from what those before came to."""
    return bool(conf.attribute(given.search["name"], ROOM, "LEARNS", where="sweep(): search.name"))


def _trial(space: Mapping, config: Mapping, artifacts: Artifacts, *, metric: str) -> Trial | None:
    """Read what a job came to; None where its setting is not of the space."""
    setting = {key: _setting(own, config, key) for key, own in space.items()}
    if any(value is ABSENT for value in setting.values()):
        return None
    state = unit.read(artifacts).state
    if state != "done":
        return Trial(setting, state if state in unit.ENDED else "open")
    metrics = files.read_json(artifacts.summary)["metrics"]
    if metric not in metrics:
        raise ValueError(
            f"sweep(): search.metric: got {metric!r}, which {artifacts.workdir} does not have; "
            f"{conf.nearest(metric, metrics)}expected one of {conf.listed(metrics)}"
        )
    if (value := metrics[metric]) is None:  # as JSON has what is not finite
        return Trial(setting, "diverged")
    return Trial(setting, state, float(value))


ABSENT = object()


def _setting(own: Any, config: Mapping, key: str) -> Any:
    """Find which value of a dimension a config has; ABSENT where it has another one."""
    dim, value = spaces.dimension(own, where=key), config
    for name in key.split("."):
        value = value.get(name, ABSENT) if isinstance(value, Mapping) else ABSENT
    if isinstance(dim, spaces.Interval):
        inside = isinstance(value, int | float) and dim.low <= value <= dim.high
        return value if inside else ABSENT
    # As JSON: a config that was kept has lists where the space may have tuples.
    text = lambda each: json.dumps(files.plain(each), sort_keys=True)
    return next((each for each in dim.values if value is not ABSENT and text(each) == text(value)),
                ABSENT)  # fmt: skip
