"""Learning-rate scale and weight decay of every leaf, by glob patterns over its path.

groups=[("**/b", dict(lr_scale=16.0))]     LoRA+ (arXiv:2402.12354): lr(b) = 16 lr(a)
no_decay=["**/*norm", "**/*bias"]          no weight decay there
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ftjax.core import config as conf
from ftjax.core import tree


class Setting(NamedTuple):
    """What the optimizer does to one leaf besides its direction."""

    lr_scale: float
    weight_decay: float


def settings(
    names: Iterable[str],
    *,
    weight_decay: float = 0.0,
    no_decay: Iterable[str] = (),
    groups: Iterable[tuple[str, Mapping]] = (),
    where: str = "optim",
) -> dict[str, Setting]:
    """Return the setting of each path; a later group overrides an earlier one, `no_decay` wins.

    Raises ValueError for a pattern that matches no path and for an unknown key of a group.
    """
    found = {name: Setting(lr_scale=1.0, weight_decay=weight_decay) for name in names}
    pairs = groups.items() if isinstance(groups, Mapping) else groups
    for pattern, changes in pairs:
        _check_keys(changes, where=f"{where}.groups[{pattern!r}]")
        for name in tree.select([pattern], found, where=f"{where}.groups"):
            found[name] = found[name]._replace(**changes)
    if no_decay:
        for name in tree.select(no_decay, found, where=f"{where}.no_decay"):
            found[name] = found[name]._replace(weight_decay=0.0)
    return found


def _check_keys(changes: Mapping, *, where: str):
    for key in changes:
        if key not in Setting._fields:
            fix = conf.nearest(key, Setting._fields)
            legal = ", ".join(Setting._fields)
            raise ValueError(f"{where}.{key}: unknown key; {fix}expected one of {legal}")
