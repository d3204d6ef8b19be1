"""The keys of a config on the command line: any that is legal, whether its file spells it or not.

    config = read(CONFIG)                 --config=configs/sft.py --config.data.on_bad_row=skip

Which keys a section has, and of which types, is what the functions say that the section is handed
to: those of the module that its `name` names. A key that none of them has is refused with the
nearest name; whatever is wrong with a value, the functions themselves find.
"""

import ast
import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ftjax.core import config as conf
from ftjax.core import config_flag, typed
from ftjax.run import config as settings

# What says one thing in two ways: the command line's takes the place of the config's.
SYNONYMS = (("steps", "epochs"), ("warmup_steps", "warmup_ratio"), ("decay_steps", "decay_ratio"))
INSTEAD = {one: other for pair in SYNONYMS for one, other in (pair, pair[::-1])}
Keys = dict[str, Any]  # annotations by key
# What the program sets itself, of all functions below.
SET = (
    "total_steps", "where", "inner", "projected", "depths", "views", "devices", "model",
    "tokenizer", "local_rows", "progress", "eval_texts", "collect", "respond", "examples",
    "byte_counts", "pairs", "reference", "sample", "base_of", "mesh", "linears", "trains", "run",
    "load",
)  # fmt: skip
OF_EVALS = (
    "name", "group", "data", "rows", "chat", "max_new_tokens", "temperature", "until", "rewards",
)  # fmt: skip
OF_ADAPTERS = ("name", "where", "groups", "past", "token_ids", "batches", "data")


def read(flag: config_flag.Flag):
    """Return the locked config of the flag `--config`, with the keys of the command line.

    Raises:
      ValueError: the file cannot be read, or a key is not legal.
    """
    return apply(conf.load(flag.config.value), flag.keys.value)


def apply(config, texts: Iterable[str]):
    """Set the keys of texts `a.b=value`, in order, and return the config.

    Raises:
      ValueError: a key is not legal, or its value of none of the types that it has.
    """
    given = [text.partition("=") for text in texts]
    names = {key for key, _, _ in given}
    # Before any value is set: both of a pair at once would be refused as a contradiction.
    for key in sorted(names):
        *parents, name = key.split(".")
        other = [*parents, INSTEAD.get(name, "")]
        if (
            name in INSTEAD
            and ".".join(other) not in names
            and conf.peek(config, other) is not None
        ):
            conf.put(config, other, None)
    # A length that somebody asks for is not to be another one.
    if (
        names & {"steps", "epochs"}
        and "min_steps" not in names
        and conf.peek(config, ["min_steps"])
    ):
        conf.put(config, ["min_steps"], 0)
    # A section's name first: it says which other keys there are.
    for key, _, text in sorted(given, key=lambda each: not each[0].endswith("name")):
        path = key.split(".")
        conf.put(config, path, _value(config, path, text))
    return config


def _value(config, path: Sequence[str], text: str):
    """Read a text in the type of its key."""
    # A key that the file spells is legal whatever the signature says: a plug-in may take any.
    present = conf.peek(config, path)
    legal = legal_at(config, path[:-1])
    name = path[-1]
    if legal is not None and name not in legal and present is None:
        where = ".".join(["config", *path])
        raise ValueError(
            f"{where}: unknown key; {conf.nearest(name, legal)}expected one of {conf.listed(legal)}"
        )
    return parse(text, (legal or {}).get(name, Any), present=present)


def parse(text: str, annotation: Any = Any, *, present: Any = None) -> Any:
    """Read a text in a type of `annotation`, or of what is there where that says nothing.

    The first of bool, int, float that it fits; where a text is expected it is taken as it stands;
    otherwise `None`, a list `[1, 2]`, a section `{"name": "lora"}`, or else the text itself.
    """
    alternatives = typed.alternatives(annotation)
    kinds = typed.plain(annotation)
    if not alternatives and isinstance(present, bool | int | float | str):
        kinds = (type(present),)
    only_text = bool(alternatives) and set(kinds) == {str} and len(alternatives) == len(kinds)
    if text == "None" and not only_text:
        return None
    if bool in kinds and text.lower() in conf.TRUTH:
        return conf.TRUTH[text.lower()]
    # The narrower first: 3 is a float too, and a count must not become one.
    for kind in (kind for kind in (int, float) if kind in kinds):
        with contextlib.suppress(ValueError):
            return kind(text)
    # A pattern may begin with a bracket where nothing but text is legal; elsewhere it is a list.
    if str in kinds and (only_text or text[:1] not in "[({"):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        # Nothing that Python can read is a text: paths and names need no quotes on a command line.
        return conf.TRUTH.get(text.lower(), text)


# -- which keys there are --------------------------------------------------------------------------


def legal_at(config, path: Sequence[str]) -> Keys | None:
    """Return the keys of the section at `path` with their annotations; None where any is legal."""
    path = tuple(path)
    if not path:
        return _fields(settings.Settings, without=("plain",))
    if len(path) == 1 and path[0] in settings.SECTIONS:
        return _fields(settings.SECTIONS[path[0]])
    # Of a plug-in's options nobody but the plug-in knows the keys: then any may be set.
    find = next((f for pattern, f in SECTIONS.items() if _matches(pattern, path)), None)
    name = conf.peek(config, [*path, "name"])
    if find is None or (find not in NAMELESS and not isinstance(name, str)):
        return None
    return find(name) if name or find in NAMELESS else None


def _matches(pattern: str, path: tuple[str, ...]) -> bool:
    parts = pattern.split(".")
    pairs = zip(parts, path, strict=False)
    return len(parts) == len(path) and all(part in ("*", own) for part, own in pairs)


def _fields(section: type, *, without: tuple[str, ...] = ()) -> Keys:
    return {f.name: f.type for f in dataclasses.fields(section) if f.name not in without}


def _of(*functions: Callable, more: Iterable[str] = ("name",), without: Iterable[str] = ()) -> Keys:
    """Collect the keywords of functions, less what the program sets."""
    found: dict[str, Any] = dict.fromkeys(more, Any)
    for function in functions:
        for p in inspect.signature(function).parameters.values():
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in without:
                found[p.name] = p.annotation
    return found


def _takes_any(function: Callable) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _made(name: str, room: str, *, more: Iterable[str] = ("name",), where: str) -> Keys | None:
    """Return the keywords of the `make` of a module; None where it takes any."""
    make = conf.attribute(name, room, where=where)
    if make is None or _takes_any(make):
        return None
    return _of(make, more=more, without=SET)


def _adapter(name: str) -> Keys | None:
    return _made(name, "adapters", more=OF_ADAPTERS, where="adapter.name")


def _objective(name: str) -> Keys | None:
    return _made(name, "objectives", where="objective.name")


def _penalty(name: str) -> Keys | None:
    return _made(name, "penalties", more=("name", "data"), where="penalties.name")


def _anchor(_: str | None) -> Keys:
    from ftjax.run import anchors

    return _of(anchors.section, more=(), without=SET)


def _optim(name: str) -> Keys | None:
    from ftjax.optim import optimizer

    if name not in optimizer.names():
        return None
    return _of(optimizer.factory(name), optimizer.make, without=SET)


def _schedule(name: str) -> Keys | None:
    from ftjax.optim import schedule

    # The ratios are of our own reading: they become steps before the function is called.
    known = schedule.SCHEDULES.get(name)
    more = ("name", "warmup_ratio", *(("decay_ratio",) if name == "wsd" else ()))
    return None if known is None else _of(known, more=more, without=SET)


def _ranks(_: str | None) -> Keys:
    from ftjax.optim import adalora_budget

    return _of(adalora_budget.make, more=(), without=SET)


def _sam(_: str | None) -> Keys:
    from ftjax.optim import sam

    return _of(sam.make, more=(), without=SET)


def _galore(_: str | None) -> Keys:
    from ftjax.optim import galore

    return _of(galore.make, more=(), without=SET)


def _average(_: str | None) -> Keys:
    from ftjax.optim import optimizer

    return _of(optimizer.averaging, more=(), without=SET)


def _data(name: str) -> Keys | None:
    from ftjax.data import loader, prepare

    make = conf.attribute(name, "data.sources", where="data.name")
    if make is None or _takes_any(make):
        return None
    return _of(loader.make, prepare.load, make, without=(*SET, "batch_size", "seed"))


def _run_data(name: str) -> Keys | None:
    from ftjax.run import new_tokens

    found = _data(name)
    return None if found is None else found | {new_tokens.KEY: new_tokens.Tokens}


def _evaluation(name: str) -> Keys | None:
    return _made(name, "evals", more=OF_EVALS, where="evals.name")


def _tracker(name: str) -> Keys | None:
    return _made(name, "report.trackers", where="tracker.name")


def _mesh(_: str | None) -> Keys:
    from ftjax.core import mesh

    return _of(mesh.make, more=(), without=SET)


SECTIONS: Mapping[str, Callable] = {
    "adapter": _adapter, "adapter.data": _data,
    "objective": _objective, "penalties.*": _penalty,
    "penalties.*.data": _data, "anchors.*": _anchor, "anchors.*.data": _data,
    "optim": _optim, "optim.schedule": _schedule, "optim.ranks": _ranks, "optim.sam": _sam,
    "optim.average": _average, "optim.galore": _galore, "data": _run_data,
    "evals.*": _evaluation, "evals.*.data": _data, "mesh": _mesh, "tracker": _tracker,
}  # fmt: skip
NAMELESS = (_anchor, _mesh, _ranks, _sam, _average, _galore)
