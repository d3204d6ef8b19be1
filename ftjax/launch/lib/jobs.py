"""The jobs of a sweep: the runs that the `sweep()` of a config file lists, each in its own workdir.

    jobs = plan("configs/x.py:steps=100", workdir)      # workdir/<id>, id = hash of the config
    keep(jobs, workdir)                                 # workdir/sweep.json: what was launched
    jobs = kept(workdir)

`sweep()` returns {label: variant}, a list of variants, or `Searched(...)`; a variant is what stands
behind the file name (a string), or a dict of dotted overrides. The command of a job is what one
would type: the overrides become `--config.key=value`, and what that command makes of them is what
is hashed.
"""

import collections
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ftjax.core import config as conf
from ftjax.core import dotted, files
from ftjax.launch.lib import searching
from ftjax.launch.lib.space import Searched
from ftjax.run import config as settings
from ftjax.run import keys
from ftjax.run.artifacts import Artifacts

DIGITS = 10  # of a hash in an id: two of a thousand jobs share one with a chance of 5e-7


class Job(NamedTuple):
    """A run to make. command: behind `python -m`; config: as it is resolved."""

    id: str
    label: str
    command: tuple[str, ...]
    workdir: pathlib.Path
    config: dict

    @property
    def artifacts(self) -> Artifacts:
        """The files of its workdir."""
        return Artifacts(self.workdir)


def plan(config: str, workdir: pathlib.Path) -> list[Job]:
    """List the jobs of `file.py:arg`, resolved and checked.

    Of a search that learns they are those that were launched in `workdir`, and the next ones.

    Raises:
      ValueError: the file has no sweep(); a variant is not legal; two are the same run.
    """
    found: dict[str, Job] = {}
    earlier = kept(workdir) if _list_of(workdir).exists() else []
    for label, variant in variants(config, earlier).items():
        job = _job(label, config, variant, workdir)
        if job.id in found:
            raise ValueError(
                f"sweep(): got {found[job.id].label!r} and {label!r}, which resolve to one config "
                f"and so to one workdir, {job.workdir}; expected jobs that differ; drop one of them"
            )
        found[job.id] = job
    return list(found.values())


def variants(config: str, earlier: Sequence[Job] | None = None) -> dict[str, str | dict]:
    """Read what the `sweep()` of a config file lists, by label.

    earlier: jobs of the same sweep, from which a search may learn; None where there is no sweep.

    Raises:
      ValueError: there is no sweep(), it lists nothing, or something that is no variant.
    """
    path, _, _ = config.partition(":")
    given = conf.load_function(path, "sweep")()
    if isinstance(given, Searched):
        if searching.learns(given) and conf.find_function(path, "members"):
            raise ValueError(
                f"{path}: sweep(): got a search that learns beside members(), whose jobs have a "
                "result for each member and none of their own; expected one of the two; list the "
                "jobs, or search without members()"
            )
        known = None if earlier is None else [(job.config, job.artifacts) for job in earlier]
        given = searching.overrides(given, known)
    if not isinstance(given, Mapping):
        given = _labelled(given)
    if not given:
        raise ValueError(f"{path}: got no variants of sweep(); expected one at least")
    for label, variant in given.items():
        if not isinstance(variant, str | Mapping):
            raise ValueError(
                f"{path}: sweep()[{label!r}]: got {variant!r}; expected what stands behind the "
                "file name, or a dict of dotted overrides"
            )
    return dict(given)


def learns(config: str) -> bool:
    """Return whether the `sweep()` of a config file is a search that learns from its jobs."""
    given = conf.load_function(config.partition(":")[0], "sweep")()
    return isinstance(given, Searched) and searching.learns(given)


def _labelled(given: Iterable) -> dict:
    """Label variants by what differs between them, less the sections of the keys."""
    given, found = list(given), {}
    pairs_of = lambda variant: variant.items() if isinstance(variant, Mapping) else ()
    values = collections.defaultdict(set)
    for key, value in (pair for variant in given for pair in pairs_of(variant)):
        values[key].add(repr(value))
    for number, variant in enumerate(given):
        pairs = [(k, v) for k, v in pairs_of(variant) if len(values[k]) > 1]
        label = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in pairs)
        label = label or str(number if isinstance(variant, Mapping) else variant)
        found[f"{label}#{number}" if label in found else label] = variant
    return found


def resolve(config: str, variant: str | Mapping[str, Any]):
    """Load the config of a variant, as its command does.

    Raises:
      ValueError: an override is not legal, or the command line would read another value.
    """
    loaded = keys.apply(conf.load(_spec(config, variant)), _texts(variant))
    for key, value in variant.items() if isinstance(variant, Mapping) else ():
        read = conf.peek(loaded, key.split("."))
        if _text(files.plain(_plain(read))) != _text(files.plain(_plain(value))):
            raise ValueError(
                f"sweep(): {key}: got {value!r}, which the command line reads as {read!r}; "
                "expected a value of the key's type; write it so"
            )
    return loaded


def _plain(value):
    return conf.to_dict({"value": value})["value"]


def _text(value) -> str:
    return json.dumps(value, sort_keys=True)


def _spec(config: str, variant: str | Mapping) -> str:
    path, _, arg = config.partition(":")
    arg = ",".join(filter(None, [arg, variant if isinstance(variant, str) else ""]))
    return f"{path}:{arg}" if arg else path


def _texts(variant: str | Mapping) -> list[str]:
    pairs = variant.items() if isinstance(variant, Mapping) else ()
    return [f"{key}={value if isinstance(value, str) else _python(value)}" for key, value in pairs]


def _python(value) -> str:
    return repr(tuple(value) if isinstance(value, range) else _plain(value))


def _job(label: str, config: str, variant: str | Mapping, workdir: pathlib.Path) -> Job:
    try:
        chosen = settings.read(resolve(config, variant))
    except ValueError as error:
        raise ValueError(f"sweep()[{label!r}]: {error}") from error
    plain = files.plain(chosen.plain)
    own = hashlib.sha256(_text(plain).encode()).hexdigest()[:DIGITS]
    main = "train" if chosen.rollout is None else "online"
    command = (
        f"experiments.{main}", f"--config={_spec(config, variant)}",
        *(f"--config.{text}" for text in _texts(variant)), f"--workdir={workdir / own}",
    )  # fmt: skip
    return Job(own, label, command, workdir / own, plain)


# -- what was launched -----------------------------------------------------------------------------


def keep(jobs: Sequence[Job], workdir: pathlib.Path) -> None:
    """Add jobs to those that a sweep's directory knows."""
    path = _list_of(workdir)
    known = files.read_json(path)["jobs"] if path.exists() else {}
    for job in jobs:
        known[job.id] = dict(label=job.label, command=list(job.command), config=job.config)
    files.write_json(path, {"jobs": known})


def kept(workdir: pathlib.Path) -> list[Job]:
    """List the jobs that a sweep's directory knows.

    Raises:
      ValueError: it is not of a sweep.
    """
    path = _list_of(workdir)
    if not path.exists():
        raise ValueError(
            f"--workdir: got {workdir}, which has no sweep.json; expected the directory of a "
            "sweep; launch it first"
        )
    return [
        Job(own, known["label"], tuple(known["command"]), workdir / own, known["config"])
        for own, known in files.read_json(path)["jobs"].items()
    ]


def _list_of(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "sweep.json"


def with_members(jobs: Sequence[Job]) -> list[Job]:
    """Put the members of jobs that have begun some in their place: runs as any other."""
    found = []
    for job in jobs:
        known = job.artifacts.members
        names = files.read_json(known)["members"] if known.exists() else ()
        found += [_member(job, name) for name in names] or [job]
    return found


def _member(job: Job, name: str) -> Job:
    path = Artifacts(job.workdir / name).config
    config = files.read_json(path) if path.exists() else job.config
    own = dict(id=f"{job.id}/{name}", label=f"{job.label}/{name}", workdir=job.workdir / name)
    return job._replace(config=config, **own)


def varying(jobs: Sequence[Job]) -> list[str]:
    """List the dotted keys in which the configs of jobs differ."""
    flat = [dotted.flatten(job.config) for job in jobs]
    names = dict.fromkeys(name for each in flat for name in each)
    absent = object()
    differs = lambda name: any(
        each.get(name, absent) != flat[0].get(name, absent) for each in flat[1:]
    )
    return [name for name in names if differs(name)]
