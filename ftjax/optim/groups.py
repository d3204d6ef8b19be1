"""Learning-rate scale and weight decay of every leaf, by glob patterns over its path.

groups=[("**/b", dict(lr_scale=16.0))]     LoRA+ (arXiv:2402.12354): lr(b) = 16 lr(a)
groups=[("model/blocks/**", dict(lr_scale=0.1, layers=(0, 1)))]    of the first two layers alone
no_decay=["**/*norm", "**/*bias"]          no weight decay there
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ftjax.core import config as conf
from ftjax.core import tree
from ftjax.core.typed import Natural, NonNegative
from ftjax.optim import stacks

LAYERS = "layers"  # of a group: the layers of the model that it is about; all without it
TYPES = {"lr_scale": NonNegative, "weight_decay": NonNegative, LAYERS: Iterable[Natural]}


class Setting(NamedTuple):
    """What the optimizer does to one leaf besides its direction.

    Numbers, or arrays [L, 1, ...] where layers of a stack differ.
    """

    lr_scale: float | jax.Array
    weight_decay: float | jax.Array


def settings(
    leaves: Mapping[str, Any], *, weight_decay: float = 0.0, no_decay: Iterable[str] = (),
    groups: Iterable[tuple[str, Mapping]] = (), where: str = "optim",
    depths: stacks.Depths | None = None,
) -> dict[str, Setting]:  # fmt: skip
    """Return the setting of each path; a later group overrides an earlier one, `no_decay` wins.

    Raises ValueError for a pattern that matches no path, for an unknown key of a group, and for
    layers that a path or the model has not.
    """
    found = {name: Setting(lr_scale=1.0, weight_decay=weight_decay) for name in leaves}
    pairs = groups.items() if isinstance(groups, Mapping) else groups
    for pattern, changes in pairs:
        own = f"{where}.groups[{pattern!r}]"
        _check_keys(changes, where=own)
        numbers = {key: value for key, value in changes.items() if key != LAYERS}
        for name in tree.select([pattern], found, where=f"{where}.groups"):
            setting = found[name]._replace(**numbers)
            if (chosen := changes.get(LAYERS)) is not None:
                at = (name, leaves[name], set(chosen), depths or {})
                inside = stacks.mask(*at, where=f"{own}.{LAYERS}")
                pairs_of = zip(setting, found[name], strict=True)
                setting = Setting(*(jnp.where(inside, new, old) for new, old in pairs_of))
            found[name] = setting
    if no_decay:
        for name in tree.select(no_decay, found, where=f"{where}.no_decay"):
            found[name] = found[name]._replace(weight_decay=0.0)
    return found


def _check_keys(changes: Mapping, *, where: str):
    for key in changes:
        if key not in TYPES:
            fix, legal = conf.nearest(key, TYPES), ", ".join(TYPES)
            raise ValueError(f"{where}.{key}: unknown key; {fix}expected one of {legal}")
        conf.check(changes[key], TYPES[key], where=f"{where}.{key}")
