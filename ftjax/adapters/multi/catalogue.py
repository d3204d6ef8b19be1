"""The methods of this folder, and settings of each that are comparable with LoRA's of a rank.

names()                     ["lora", "boft", ...]: every file with an EXAMPLE
example("oft", rank=8)      its EXAMPLE, scaled as LoRA's rank is: keywords of `oft.make`
"""

import functools
import importlib
import pkgutil
from types import ModuleType
from typing import Any

import ftjax.adapters
from ftjax.adapters import lora
from ftjax.adapters.lib import protocol

SCALED = ("rank", "alpha", "block", "frequencies")  # of an EXAMPLE, with the rank


@functools.cache
def modules() -> dict[str, ModuleType]:
    """Import every method by name, LoRA first."""
    names = [
        module.name for module in pkgutil.iter_modules(ftjax.adapters.__path__) if not module.ispkg
    ]
    found = {name: importlib.import_module(f"{ftjax.adapters.__name__}.{name}") for name in names}
    methods = {name: module for name, module in found.items() if "EXAMPLE" in vars(module)}
    return {"lora": lora} | methods


def names() -> list[str]:
    """List the methods, LoRA first."""
    return list(modules())


def is_of_model(name: str) -> bool:
    """Return whether a method adapts the model and no weight of it, so that it takes no `where`."""
    module = modules()[name]
    return isinstance(module.make(**module.EXAMPLE), protocol.OfModel)


def example(name: str, *, rank: int) -> dict[str, Any]:
    """Scale a method's EXAMPLE as LoRA's is scaled to `rank`."""
    factor = rank / lora.EXAMPLE["rank"]
    scaled = lambda key, value: type(value)(value * factor) if key in SCALED else value
    return {key: scaled(key, value) for key, value in modules()[name].EXAMPLE.items()}
