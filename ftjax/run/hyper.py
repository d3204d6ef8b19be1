"""The numbers of a run that its step takes as arguments: runs that differ in them are one program.

    numbers = of(settings)      # {"optim": {"learning_rate": 0.001}, "objective": {"beta": 0.1}}
    put(settings, numbers)      # the settings with these numbers in them, traced ones too

What Python asks about is not among them: a weight decay or an average that is switched off leaves
its lines out of the program.
"""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ftjax.core import mesh as meshes
from ftjax.objectives.losses import spec as specs
from ftjax.optim import optimizer
from ftjax.run import objective
from ftjax.run.config import Settings

Hyper = dict[str, Any]
# What is the same as none: w - lr * 0 * w, and min(1, inf / norm).
NEUTRAL = {("optim", "weight_decay"): np.float32(0), ("optim", "clip_norm"): np.float32(np.inf)}


def of(settings: Settings) -> Hyper:
    """Return the numbers by section, float32 scalars each."""
    module = objective.module_of(settings)
    known = inspect.signature(module.make).parameters
    # Defaults too: a sweep over a key that only some runs set is one program.
    keywords = {k: settings.objective.get(k, known[k].default) for k in specs.of(module).hyper}
    optim = {key: settings.optim.get(key) for key in optimizer.hyper(settings.optim)}
    found = {"optim": optim, "objective": keywords, "ema": {"decay": settings.ema_decay}}
    # Float32 here: a Python number would be weak in the trace, and a strong one another program.
    on = lambda own: {k: np.asarray(x, np.float32) for k, x in own.items() if x is not None}
    return {section: on(own) for section, own in found.items()}


def stack(found: Sequence[Hyper]) -> Hyper:
    """Lay the numbers of several runs side by side, [M] each.

    Where some have no decay, or do not clip, theirs is the number that does nothing.

    Raises:
      ValueError: some lack another number.
    """
    keys = dict.fromkeys((s, key) for one in found for s, own in one.items() for key in own)
    result: Hyper = {section: {} for section in found[0]}
    for section, key in keys:
        values = [one[section].get(key, NEUTRAL.get((section, key))) for one in found]
        if any(value is None for value in values):
            name = "ema_decay" if section == "ema" else f"{section}.{key}"
            raise ValueError(
                f"members(): got {name} for some members alone; expected a number for "
                "each; switched off it is another program: give all a number, or none"
            )
        result[section][key] = np.asarray(values, np.float32)
    return result


def place(p) -> Hyper:
    """Lay the numbers of a program out for its step.

    Jit would ask all processes whether their host arrays are equal, in collectives that meet those
    of the step before.
    """
    # pmap copies what is not mapped by itself.
    if p.settings.compile == "pmap":
        return p.hyper
    everywhere = meshes.replicated(p.parts.mesh)
    return meshes.put(p.hyper, jax.tree.map(lambda _: everywhere, p.hyper))


def put(settings: Settings, hyper: Hyper) -> Settings:
    """Return the settings with the numbers of `hyper` in the place of their own."""
    return dataclasses.replace(
        settings, optim={**settings.optim, **hyper["optim"]},
        objective={**settings.objective, **hyper["objective"]},
        ema_decay=hyper["ema"].get("decay"),
    )  # fmt: skip
