"""The numbers of a run that its step takes as arguments: runs that differ in them are one program.

    numbers = of(settings)      # {"optim": {"learning_rate": 0.001}, "objective": {"beta": 0.1}}
    put(settings, numbers)      # the settings with these numbers in them, traced ones too

What Python asks about is not among them: a weight decay or an average that is switched off leaves
its lines out of the program.
"""

import dataclasses
import inspect
from typing import Any

import jax
import numpy as np

from ftjax.core import mesh as meshes
from ftjax.objectives.losses import spec as specs
from ftjax.optim import optimizer
from ftjax.run import objective
from ftjax.run.config import Settings

Hyper = dict[str, Any]


def of(settings: Settings) -> Hyper:
    """Return the numbers by section, float32 scalars each."""
    module = objective.module_of(settings)
    known = inspect.signature(module.make).parameters
    # Defaults too: a sweep over a key that only some runs set is one program.
    keywords = {k: settings.objective.get(k, known[k].default) for k in specs.of(module).hyper}
    optim = {key: settings.optim.get(key) for key in optimizer.hyper(settings.optim)}
    found = {"optim": optim, "objective": keywords, "ema": {"decay": settings.ema_decay}}
    on = lambda own: {k: np.asarray(x, np.float32) for k, x in own.items() if x is not None}
    return {section: on(own) for section, own in found.items()}


def place(p) -> Hyper:
    """Lay the numbers of a program out for its step.

    Jit would ask all processes whether their host arrays are equal, in collectives that meet those
    of the step before.
    """
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
