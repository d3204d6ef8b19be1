"""ftjax: fine-tune language models in JAX, and measure what they forget.

    ftjax.train, ftjax.load, ftjax.generate, ftjax.evaluate     from Python, see `ftjax/api.py`

NNX to define, JAX to transform, adapters as values in a tree of their own, objectives as pure
functions, configs as functions. Nothing is imported here: `import ftjax` costs nothing, and each
room (`ftjax.models`, `ftjax.adapters`, ...) loads what it needs.
"""

import importlib

__version__ = "0.1.0"

FUNCTIONS = ("evaluate", "generate", "load")  # of `ftjax.api`
MODULES = ("api", "train")  # the room `train` can be called, see its `__init__`


def __getattr__(name: str):
    """Import what belongs to the API when it is first asked for."""
    if name in FUNCTIONS:
        return vars(importlib.import_module("ftjax.api"))[name]
    if name in MODULES:
        return importlib.import_module(f"ftjax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the API too."""
    return sorted({*globals(), *FUNCTIONS, *MODULES})
