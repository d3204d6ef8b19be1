"""What a study compares, read from `study()` of a config file and checked before anything runs.

    def study():
        return dict(
            tasks=("first", "second"), orders=2, carry="merged",
            methods=dict(full="full", lora="", replay="replay=0.05"),
            rates=dict(full=(1e-4, 3e-4, 1e-3), lora=(1e-3, 3e-3, 1e-2), replay=(1e-3, 3e-3, 1e-2)),
            seeds=3, match=dict(metric="nll", fraction=0.9),
        )

A cell is a method at a rate with a seed, taught the tasks in one order, one stage each. The config
of a stage is `get_config(arg)` with the method's argument and `task=NAME`, where the study sets
`optim.learning_rate`, the seeds of data, adapter and sampling, and the evaluations: those of all
tasks in every stage. An evaluation of group "new" is of the task in whose config it is, the others
are probes of what the base knows.
"""

import dataclasses
import fnmatch
import re
import types
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ftjax.core import config as conf
from ftjax.core.typed import Count, Natural, NonNegative, Positive, Share
from ftjax.run import config as settings
from ftjax.studies import controls as control_lib
from ftjax.studies.controls import CONTROLS, PADDING

SEPARATE = "separate"
CARRIES = ("continued", "stacked", "merged", "full", SEPARATE)
DRIFT, SPECTRUM, PATH, STATES = CHANGES = ("drift", "spectrum", "path", "states")
# Parts of a comparison in the literature; axes are sweeps of a number.
PARTS = (
    "full", "lora", "replay", "self_replay", "kl_old", "frozen_bottom", "sft", "grpo",
    "rejection", "distilled", "few", "attention", "mlp", "pissa", "dora", "oft", "vera",
    "sized",
)  # fmt: skip
# What is a mean over examples or tokens, so that single examples have scores of it.
METRICS = (
    "nll", "exact_match", "f1", "accuracy", "margin", "reward", "kl_forward", "kl_reverse",
    "ce_to_base", "tv", "js", "top1_agreement",
)  # fmt: skip
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")  # of a folder, on every file system


class Match(NamedTuple):
    """Where methods are compared: a fraction of what can be learned of a task, by a metric.

    0 is the base's score and 1 that of the joint control, or the best of all cells without one.
    """

    metric: str
    fraction: float


@dataclasses.dataclass(frozen=True)
class Study:
    """A study; mappings are by the names that its author gave."""

    config: str  # file.py or file.py:arg
    tasks: Mapping[str, str]  # arguments
    orders: tuple[tuple[str, ...], ...]
    carry: str
    methods: Mapping[str, str | Mapping]  # arguments, or dotted keys and values
    rates: Mapping[str, tuple[float, ...]]
    seeds: tuple[int, ...]
    match: Match
    controls: tuple[str, ...]
    evals: Mapping[str, Mapping]  # of all tasks, without their groups
    owners: Mapping[str, str]  # the task of an evaluation
    probes: tuple[str, ...]  # evaluations that forgetting is measured on, beside earlier tasks
    changes: tuple[str, ...] = ()  # what is measured of the model of every stage: CHANGES
    sees_old: tuple[str, ...] = ()  # methods that train on data of old abilities
    recover: tuple[str, ...] = ()  # tasks that the base knew and earlier stages took away
    # Which method has a part in the statements of `studies.literature`: part -> method.
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # Numbers that methods differ in, such as a rank, for a figure: axis -> method -> number.
    axes: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    # Methods of the control `padding`, which are those of `sees_old` without old rows.
    padded: Mapping[str, str] = dataclasses.field(default_factory=dict)  # control -> method

    @property
    def plain(self) -> dict:
        """What it compares, for JSON."""
        return dataclasses.asdict(self)

    def label_of(self, task: str) -> str:
        """Return the evaluation that a task is scored by: that of its name, else its first one."""
        own = [label for label, owner in self.owners.items() if owner == task
               and is_measured(self.evals[label], self.match.metric, where=label)]  # fmt: skip
        return task if task in own else own[0]

    def config_of(self, method: str, task: str, *, rate: float, seed: int):
        """Load the config of a stage, with its rate and seeds, as it is alone."""
        return _load(self.config, self.methods[method], self.tasks[task], rate=rate, seed=seed)


def read(config: str) -> Study:
    """Read the study of `file.py:arg`.

    Raises:
      ValueError: the file has no study(), or naming a key of it, its value and what was expected.
    """
    given = conf.load_function(config.partition(":")[0], "study")()
    return conf.call(_make, given, where="study", extra={"config": config})


def with_methods(study: Study, patterns: Sequence[str]) -> Study:
    """Return the part of a study that is about some methods; all of it without patterns.

    The first method stays, since the others, and the joint control, are compared with it. A sweep
    that has lost a method is no sweep any more.

    Args:
      patterns: names, in which `*` and `?` stand for what they stand for in file names.

    Raises:
      ValueError: naming a pattern that is no method's.
    """
    kept = {next(iter(study.methods))} if patterns else set(study.methods)
    for pattern in patterns:
        found = fnmatch.filter(study.methods, pattern)
        if not found:
            legal = ", ".join(study.methods)
            near = conf.nearest(pattern, study.methods)
            raise ValueError(f"--methods: got {pattern!r}; {near}expected some of {legal}")
        kept.update(found)
    only = lambda own: {name: value for name, value in own.items() if name in kept}
    return dataclasses.replace(
        study, methods=only(study.methods), rates=only(study.rates),
        sees_old=tuple(name for name in study.sees_old if name in kept),
        parts={part: name for part, name in study.parts.items() if name in kept},
        axes={axis: own for axis, own in study.axes.items() if kept.issuperset(own)},
        padded={name: own for name, own in study.padded.items() if name in kept},
    )  # fmt: skip


def _make(
    *, config: str, tasks: Mapping | Sequence[str], methods: Mapping, rates: Mapping | Sequence,
    match: Mapping, orders: Count | Sequence = 1, carry: str = "merged",
    seeds: Count | Sequence[Natural] = 1, controls: Sequence[str] = ("none",),
    probes: Sequence[str] | None = None, changes: Sequence[str] = (), sees_old: Sequence[str] = (),
    recover: Sequence[str] = (),
    parts: Mapping[str, str] = types.MappingProxyType({}),
    axes: Mapping[str, Mapping] = types.MappingProxyType({}),
) -> Study:  # fmt: skip
    tasks = dict(tasks) if isinstance(tasks, Mapping) else {name: f"task={name}" for name in tasks}
    for key, names in (("tasks", tasks), ("methods", methods)):
        _check_names(key, names)
    _among("study.carry", carry, CARRIES)
    _check_chosen(controls, changes, sees_old, recover, parts, tasks=tasks, methods=methods)
    axes = {axis: _axis(axis, places, methods) for axis, places in axes.items()}
    rates = _rates(rates, methods)
    chosen = conf.call(Match, match, where="study.match")
    conf.check(chosen.fraction, Share, where="study.match.fraction")
    _among("study.match.metric", chosen.metric, METRICS)
    orders = _orders(orders, tuple(tasks))
    first = next(iter(methods))
    loaded = {
        task: settings.read(_load(config, methods[first], arg, rate=rates[first][0], seed=0)).plain
        for task, arg in tasks.items()
    }
    evals, owners = _evals(loaded)
    padded = {f"{PADDING}_{name}": name for name in sees_old if PADDING in controls}
    _check_padded(padded, config, methods, tasks, rates)
    follow = lambda own: {n: own[padded.get(n, n)] for n in _beside(tuple(methods), padded)}
    found = Study(
        config, tasks, orders, carry, follow(methods), follow(rates), _seeds(seeds), chosen,
        tuple(controls), evals, owners, (), tuple(changes), tuple(sees_old), tuple(recover),
        dict(parts), axes, padded,
    )  # fmt: skip
    _check_scores(found)
    return dataclasses.replace(found, probes=_probes(found, probes))


def _check_chosen(controls, changes, sees_old, recover, parts, *, tasks, methods) -> None:
    """Check every name that is one of a list."""
    legal = tuple(methods)
    for name in controls:
        _among("study.controls", name, CONTROLS)
    for name in changes:
        _among("study.changes", name, CHANGES)
    for name in sees_old:
        _among("study.sees_old", name, legal)
    for name in recover:
        _among("study.recover", name, tuple(tasks))
    for part, name in parts.items():
        _among("study.parts", part, PARTS)
        _among(f"study.parts.{part}", name, legal)


def _load(config: str, method: str | Mapping, task: str, *, rate: float, seed: int):
    path, _, arg = config.partition(":")
    own = method if isinstance(method, str) else ""
    found = conf.load(f"{path}:{','.join(filter(None, (arg, own, task)))}")
    for key, value in ({} if isinstance(method, str) else method).items():
        conf.put(found, key.split("."), value)
    conf.put(found, ("optim", "learning_rate"), rate)
    for part in ("data", "adapter", "sampling"):  # `init` is of the base, the same for all
        conf.put(found, ("seed", part), seed)
    return found


def _check_names(key: str, names: Mapping) -> None:
    if not names:
        raise ValueError(f"study.{key}: got none; expected one at least; name them")
    for name, value in names.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in CONTROLS:
            raise ValueError(
                f"study.{key}: got the name {name!r}; expected letters, digits, '_', '.', '+' or "
                f"'-', and none of {', '.join(CONTROLS)}: it names a folder; choose another"
            )
        if not isinstance(value, str | Mapping):
            raise ValueError(
                f"study.{key}.{name}: got {value!r}; expected an argument of get_config, such as "
                "'rank=4', or a dict of dotted keys"
            )


def _among(key: str, value: str, legal: Sequence[str]) -> None:
    if value not in legal:
        raise ValueError(
            f"{key}: got {value!r}; {conf.nearest(value, legal)}expected one of {', '.join(legal)}"
        )


def _beside(methods: Sequence[str], padded: Mapping[str, str]) -> list[str]:
    """List methods, each with its padding control next to it."""
    own = {method: name for name, method in padded.items()}
    return [x for name in methods for x in (name, own.get(name)) if x]


def _check_padded(padded: Mapping[str, str], config: str, methods, tasks, rates) -> None:
    """Check that what is to be padded reads old rows in some task."""
    for name, method in padded.items():
        if name in methods:
            raise ValueError(
                f"study.methods: got the name {name!r}, which is that of the control of "
                f"{method!r}; expected another; choose one"
            )
        own = [
            settings.read(_load(config, methods[method], arg, rate=rates[method][0], seed=0)).plain
            for arg in tasks.values()
        ]
        if all(control_lib.padded(plain) == plain for plain in own):
            raise ValueError(
                f"study.controls: got {PADDING!r} and {method!r} in sees_old, which has neither a "
                "mixture with other parts than those labelled 'new' nor an anchor, a penalty or an "
                "adapter with data of its own; expected one of these; take it out of sees_old"
            )


def _axis(axis: str, places: Mapping[str, float], methods: Mapping) -> dict[str, float]:
    for name, number in places.items():
        _among(f"study.axes.{axis}", name, tuple(methods))
        conf.check(number, NonNegative, where=f"study.axes.{axis}.{name}")
    return {name: float(number) for name, number in places.items()}


def _rates(rates, methods: Mapping) -> dict[str, tuple[float, ...]]:
    """Return the sweep of every method; one list serves all."""
    found = dict(rates) if isinstance(rates, Mapping) else dict.fromkeys(methods, rates)
    for name in found:
        _among("study.rates", name, tuple(methods))
    for name in methods:
        sweep = found.get(name, ())
        conf.check(sweep, Sequence[Positive], where=f"study.rates.{name}")
        if not sweep or len(set(sweep)) < len(sweep):
            raise ValueError(
                f"study.rates.{name}: got {sweep!r}; expected learning rates, each once; list them"
            )
    return {name: tuple(float(rate) for rate in found[name]) for name in methods}


def _seeds(seeds) -> tuple[int, ...]:
    found = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"study.seeds: got {seeds!r}; expected a number of them, or each one once")
    return found


def _orders(orders, tasks: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the orders: of a number, rotations, in which every task has every place once."""
    if isinstance(orders, int):
        if orders > len(tasks):
            raise ValueError(
                f"study.orders: got {orders} for {len(tasks)} tasks; expected at most as many, "
                "each a rotation of the first; list others by name"
            )
        return tuple(tasks[n:] + tasks[:n] for n in range(orders))
    found = tuple(tuple(order) for order in orders)
    for name in (name for order in found for name in order):
        _among("study.orders", name, tasks)
    if not found or any(len(set(order)) < len(tasks) or len(order) > len(tasks) for order in found):
        raise ValueError(f"study.orders: got {found}; expected every task once in each; mend them")
    return found


def _evals(loaded: Mapping[str, Mapping]) -> tuple[dict, dict]:
    """Collect the evaluations of all tasks, and the task that each is about."""
    evals: dict[str, dict] = {}
    owners: dict[str, str] = {}
    for task, plain in loaded.items():
        for label, spec in plain["evals"].items():
            own = {key: value for key, value in spec.items() if key != "group"}
            if evals.setdefault(label, own) != own:
                raise ValueError(
                    f"study: got two evaluations {label!r}, of which that of the task {task!r} "
                    "differs; expected one for all tasks; give them names of their own"
                )
            if spec.get("group") == "new" and owners.setdefault(label, task) != task:
                raise ValueError(
                    f"study: got evals.{label} as new in the tasks {owners[label]!r} and {task!r}; "
                    "expected one task that it is about; set group='old' in the other"
                )
    return evals, owners


def is_measured(spec: Mapping, metric: str, *, where: str) -> bool:
    """Return whether an evaluation has a metric."""
    known = conf.attribute(spec["name"], "evals", "METRICS", where=f"evals.{where}.name")
    return known is None or metric in known


def _check_scores(study: Study) -> None:
    if wrong := [order for order in study.orders if order[0] in study.recover]:
        raise ValueError(
            f"study.recover: got {wrong[0][0]!r}, which the order {wrong[0]} begins with; expected "
            "a stage before it that takes something away; give the orders by name"
        )
    for task in study.tasks:
        own = [label for label, owner in study.owners.items() if owner == task]
        metric = study.match.metric
        if not any(is_measured(study.evals[label], metric, where=label) for label in own):
            raise ValueError(
                f"study.tasks: got {task!r}, whose evaluations of group 'new' are "
                f"{', '.join(own) or 'none'}; expected one with the metric {metric!r}; add it to "
                "its config, or match by another metric"
            )


def _probes(study: Study, given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the evaluations of old abilities by the metric of the match, in the tasks' units."""
    metric = study.match.metric
    # One name may be of two units: nats per token of a text, nats per answer of a choice.
    kinds = {study.evals[study.label_of(task)]["name"] for task in study.tasks}
    old = [label for label in study.evals if label not in study.owners]
    measured = [x for x in old if is_measured(study.evals[x], metric, where=x)]
    legal = [x for x in measured if study.evals[x]["name"] in kinds]
    for label in given or ():
        if label in measured and label not in legal:
            raise ValueError(
                f"study.probes: got {label!r}, whose {metric!r} is that of "
                f"{study.evals[label]['name']!r}; expected that of {', '.join(sorted(kinds))}, as "
                "of the tasks: a mean over both would have no unit; leave it out"
            )
        _among("study.probes", label, legal)
    found = tuple(legal if given is None else given)
    if not found and len(study.tasks) < 2:
        raise ValueError(
            f"study.probes: got none with the metric {metric!r} beside one task; expected a probe, "
            "an evaluation of group 'old', or a second task: nothing could be forgotten"
        )
    return found
