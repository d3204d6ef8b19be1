"""The members of a config: runs that one program trains, as `members()` beside `get_config` lists.

    def members():
        return product(lr=(1e-3, 3e-3), rank=(4, 16), seed=range(2))

    def members():                    # the same, and when one is to stop by itself
        return Listed(product(...), stop=dict(metric="eval/choice/nll", patience=2))

A key is one of SHORT or any dotted key of a config. What may differ are the numbers that the step
takes as arguments, seeds, and the rank and scale of adapters; all else is one for all members, and
a difference is refused with its reason: jobs of a `sweep()` may differ in anything.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ftjax.core import config as conf
from ftjax.core import dotted, files
from ftjax.run import config as settings_lib
from ftjax.run import keys
from ftjax.run.config import Settings

SHORT = {
    "lr": ("optim.learning_rate",), "decay": ("optim.weight_decay",),
    "rank": ("adapter.rank",), "alpha": ("adapter.alpha",), "beta": ("objective.beta",),
    # Not seed.init: that draws the base, which members share.
    "seed": ("seed.data", "seed.adapter", "seed.sampling"),
    "data_seed": ("seed.data",), "init_seed": ("seed.adapter",),
}  # fmt: skip
SEEDS = ("seed.data", "seed.adapter", "seed.sampling")
OF_ADAPTERS = ("adapter.rank", "adapter.alpha", "adapter.rslora")
# Why the rest may not differ, by the beginning of the key; the first that fits.
REASONS = {
    "seed.init": "it draws the base, which members share",
    "model.": "members share one base",
    "reference.": "members are compared with one reference",
    "tokenizer": "members share one tokenizer",
    "batch_size": "the batches of one program have one shape",
    "accumulate": "the batches of one program have one shape",
    "data.": "the batches of one program have one shape, and are of the same rows",
    "steps": "members begin and end together",
    "epochs": "members begin and end together",
    "min_steps": "members begin and end together",
    "optim.name": "another optimizer has another state",
    "optim.weight_decay": "this optimizer decays inside of its direction, where no number enters",
    "adapter.where": "sites are the same in all members",
    "adapter.groups": "sites have the same shapes in all members",
    "adapter.name": "another method has other arrays",
    "adapter.init": "another start has other arrays",
}
OTHERWISE = "it is a part of the program, which is one for all"


class Listed(NamedTuple):
    """Members: overrides of each by short or dotted keys, and how they are trained.

    how: "map" one after another, "vmap" at once, "auto" the faster here.
    stop: None, or dict(metric=..., patience=...): see `ftjax/train/early_stop.py`.
    halving: None, or dict(metric=..., rungs=..., keep=...): see `ftjax/train/halving.py`.
    """

    rows: Sequence[Mapping[str, Any]]
    how: str = "auto"
    stop: Mapping[str, Any] | None = None
    halving: Mapping[str, Any] | None = None


def product(**values: Iterable) -> list[dict[str, Any]]:
    """List every combination of the values of each key, the last key varying fastest."""
    columns = {key: list(own) for key, own in values.items()}
    if empty := [key for key, own in columns.items() if not own]:
        raise ValueError(f"product: got no values of {conf.listed(empty)}; expected one at least")
    return [dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values())]


def find(config: str) -> Listed | None:
    """Read what `members()` of `file.py:arg` lists; None where the file has no such function.

    Raises:
      ValueError: it lists nothing, or what is no member.
    """
    path = config.partition(":")[0]
    function = conf.find_function(path, "members")
    if function is None:
        return None
    given = function()
    found = given if isinstance(given, Listed) else Listed(given)
    rows = found.rows
    if not isinstance(rows, Sequence) or not rows or not all(isinstance(r, Mapping) for r in rows):
        raise ValueError(
            f"{path}: members(): got {rows!r}; expected a list of dicts, as product(lr=...) makes "
            "them, or Listed(such a list, how=..., stop=...)"
        )
    from ftjax.train.members import HOW  # slow to import, as all below: `find` asks for none of it

    if found.how not in (known := ("auto", *HOW)):
        raise ValueError(
            f"{path}: members(): how: got {found.how!r}; expected one of {conf.listed(known)}"
        )
    return found


def named(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the dotted overrides of each member by its name, which is that of its directory.

    Raises:
      ValueError: two are the same.
    """
    differs = [key for key in dict.fromkeys(key for row in rows for key in row)
               if len({repr(row.get(key)) for row in rows}) > 1]  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        pairs = [f"{key.rpartition('.')[2]}={row[key]}" for key in differs if key in row]
        # A name of a folder on any system, and one word in a shell.
        name = re.sub(r"[^\w.,=+-]", "_", ",".join(pairs)) or str(number)
        own = {key: value for short, value in row.items() for key in _keys(short)}
        if name in found or own in found.values():
            raise ValueError(
                f"members(): got two members {name!r}; expected members that differ; drop one, or "
                "vary seed"
            )
        found[name] = own
    return found


def _keys(name: str) -> tuple[str, ...]:
    # Of keys without a dot, those of a config: what may not differ is refused with its reason.
    if name in SHORT or "." in name or name in Settings.__dataclass_fields__:
        return SHORT.get(name, (name,))
    raise ValueError(
        f"members(): {name}: unknown key; {conf.nearest(name, SHORT)}expected one of "
        f"{conf.listed(SHORT)}, or a dotted key as in product(**{{'optim.clip_norm': ...}})"
    )


def read(config: str, texts: Sequence[str], listed: Listed) -> dict[str, Settings]:
    """Read the config of every member by its name.

    texts: keys of the command line, `a.b=value`, which are for all of them.

    Raises:
      ValueError: a key is not legal, or differs where it must not.
    """
    found = {}
    for name, overrides in named(listed.rows).items():
        if clash := sorted({text.partition("=")[0] for text in texts} & overrides.keys()):
            raise ValueError(
                f"--config.{clash[0]}: got a value beside members() that set it; expected one of "
                "the two; drop it"
            )
        loaded = keys.apply(conf.load(config), texts)
        loaded = keys.apply(loaded, [f"{k}={_text(v)}" for k, v in overrides.items()])
        try:
            found[name] = settings_lib.read(loaded)
        except ValueError as error:
            raise ValueError(f"members(): {name}: {error}") from error
    check(found)
    return found


def _text(value: Any) -> str:
    # A number of numpy writes its type besides.
    return str(value) if isinstance(value, str | bool) else repr(files.plain(value))


def check(found: Mapping[str, Settings]) -> None:
    """Check that members differ only where one program can.

    Raises:
      ValueError: naming the key, with the reason.
    """
    from ftjax.run import hyper

    first = next(iter(found.values()))
    _check_kind(first)
    flat = {name: dotted.flatten(own.plain) for name, own in found.items()}
    absent = object()
    for key in dict.fromkeys(key for own in flat.values() for key in own):
        values = {repr(own.get(key, absent)): own.get(key) for own in flat.values()}
        if len(values) > 1 and key not in legal(first) | _legal_of_all(found.values()):
            reason = next((why for start, why in REASONS.items() if key.startswith(start)), None)
            raise ValueError(
                f"members(): {key}: got {', '.join(map(repr, values.values()))}; expected one "
                f"value: {reason or OTHERWISE}; list them in sweep(), whose jobs may differ"
            )
    hyper.stack([hyper.of(own) for own in found.values()])
    _check_ranks(list(found.values()))


def legal(settings: Settings) -> set[str]:
    """Return the dotted keys in which members may differ."""
    from ftjax.run import hyper

    numbers = hyper.of(settings)
    of = lambda section: {f"{section}.{key}" for key in numbers[section]}
    average = {"ema_decay"} if numbers["ema"] else set()
    return {*SEEDS, *OF_ADAPTERS} | of("optim") | of("objective") | average


def _legal_of_all(members: Iterable[Settings]) -> set[str]:
    # A decay of 0 is no number of that member's step, and one of the others'.
    return set().union(*map(legal, members))


def _check_kind(settings: Settings) -> None:
    from ftjax.run import replay

    if not settings.adapter.get("name"):
        raise ValueError(
            "members(): adapter.name: got ''; expected an adapter: members share one base, which "
            "stays as it is; choose one, or list full fine-tuning in sweep()"
        )
    if settings.rollout is not None:
        raise ValueError(
            "members(): rollout: got a run that samples its own answers; expected one that learns "
            "from data, whose batches all members can have at once; list it in sweep()"
        )
    if replay.is_asked(settings):
        raise ValueError(
            "members(): data.name: got 'self', rows that a run samples for itself; expected rows "
            "that all members read; sample them by a run alone, and name its DIR/self/*.jsonl"
        )
    if settings.compile != "jit":
        raise ValueError(f"members(): compile: got {settings.compile!r}; expected 'jit'; drop it")


def _check_ranks(members: Sequence[Settings]) -> None:
    """Refuse different ranks where zeros in the place of the missing ones would count."""
    ranks = sorted({own.adapter.get("rank") for own in members} - {None})
    if len(ranks) < 2:
        return
    s = members[0]
    held = {
        "optim.name": s.optim["name"] if s.optim["name"] in AVERAGES else "",
        "optim.ranks": s.optim.get("ranks") or "",
        # By their size arrays have blocks or not, and these lie along an axis.
        "optim.state_dtype": "int8" if s.optim.get("state_dtype") == "int8" else "",
        "penalties": sorted(s.penalties),
        "adapter.init": "loftq" if s.adapter.get("init") == "loftq" else "",
    }
    for key, value in held.items():
        if value:
            raise ValueError(
                f"members(): adapter.rank: got {ranks} with {key} = {value}; expected one rank: "
                "smaller ones are filled up with zeros, which this would see; list ranks in sweep()"
            )


# Optimizers whose steps are others with zeros beside an array, which the laws of members find:
# adafactor has means over rows and columns, and yogi's moments begin at 1e-6, so that zeros move.
AVERAGES = ("adafactor", "yogi")
