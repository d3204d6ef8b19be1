"""Which share of a run's time its steps took, and what took the rest: goodput.

    share = steps / (steps + data + compile + eval + checkpoint + startup + finish + again)

Seconds of the wall, added up over all processes that the run has had, from the rows that they wrote
(see `ftjax.train.journal`). `data` is what the steps waited for batches, which online runs sample.
`again` is what rows said that a process died after and the next one had to make anew, with all that
was in them; what a process did after its last row, and the time between two, is not known.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

CLOCK = "time/"  # before the names of what depends on the machine
# In the order of a run, and as people read them.
PHASES = {
    "startup": "start-up", "compile": "compiling", "steps": "steps", "data": "waiting for data",
    "eval": "evaluating", "checkpoint": "saving", "finish": "export and report",
    "again": "done again after a restart",
}  # fmt: skip


class Goodput(NamedTuple):
    """The share of the steps, and seconds by phase."""

    share: float
    seconds: dict[str, float]


def spent(rows: Sequence[Mapping]) -> dict[str, float]:
    """Add up the seconds of a log by phase, but for `finish`, which comes after its last row."""
    found, last = {name: 0.0 for name in PHASES if name != "finish"}, 0
    for row in rows:
        of = lambda name, row=row: row.get(f"{CLOCK}{name}_s") or 0.0
        if f"{CLOCK}step_s" not in row:
            continue
        # Means over the steps since the row before, of which data are a part.
        steps, last = row["step"] - last, row["step"]
        found["data"] += of("data") * steps
        found["steps"] += (of("step") - of("data")) * steps
        for name in found.keys() - {"data", "steps"}:
            found[name] += of(name)
    return found


def total(rows: Sequence[Mapping]) -> float:
    """Return the seconds of a log."""
    return sum(spent(rows).values())


def measure(rows: Sequence[Mapping], own: Mapping[str, float], *, wall_s: float) -> Goodput:
    """Measure a run that has ended.

    rows: of its log. own: seconds by phase of the process that ended it, whose rows lack what came
    after the last of them. wall_s: of that process.
    """
    # The first row of a process has its start-up; one that had nothing left to do has no row.
    mine = (n for n, row in enumerate(rows) if row.get(f"{CLOCK}startup_s") == own["startup"])
    first = next(mine, len(rows))
    before = spent(rows[:first])
    found = {name: before[name] + own.get(name, 0.0) for name in before}
    # What was taken back of the process before is in no clock of this one.
    found["again"] += spent(rows[first:])["again"]
    found["finish"] = max(wall_s - sum(own.values()), 0.0)
    all_s = sum(found.values())
    return Goodput(found["steps"] / all_s if all_s else 0.0, {name: found[name] for name in PHASES})


def line(found: Goodput, duration) -> str:
    """Write it in one line; duration: writes seconds."""
    parts = [f"{what} {duration(found.seconds[name])}" for name, what in PHASES.items()
             if found.seconds[name] >= 0.5]  # fmt: skip
    return f"goodput {found.share:.0%}: {', '.join(parts)}"
