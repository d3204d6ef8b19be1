"""The families of models: one module each, named after the `model_type` of a config.json.

A `model_type` may also be the dotted path of a module of yours. Either has

    from_hf(config_json) -> Config      to_hf(Config) -> config_json
    make(Config, **options) -> Model    NAMES: our path -> name template
"""

import difflib
import importlib
import pkgutil
from types import ModuleType

import ftjax.models.families

PARTS = ("from_hf", "to_hf", "make", "NAMES")


def families() -> list[str]:
    """List the model types that have a family file."""
    found = (module.name for module in pkgutil.iter_modules(ftjax.models.families.__path__))
    return [name for name in found if "from_hf" in vars(_module(name))]


def family_of(model_type: str) -> ModuleType:
    """Import the family of a config's `model_type`.

    Raises:
      ValueError: there is none; the nearest relative is named.
    """
    if isinstance(model_type, str) and "." in model_type:
        return _own(model_type)
    legal = families()
    if model_type in legal:
        return _module(model_type)
    near = difflib.get_close_matches(str(model_type), legal, n=1, cutoff=0.3)
    relative = f"; the nearest is {near[0]!r}, to start one of your own from" if near else ""
    raise ValueError(
        f"config.json: got model_type={model_type!r}; expected one of {legal}, or the dotted path "
        f"of a module with {', '.join(PARTS)}{relative} (docs/families.md)"
    )


def _own(path: str) -> ModuleType:
    try:
        module = importlib.import_module(path)
    except (ModuleNotFoundError, TypeError) as error:  # TypeError: it begins with a dot
        raise ValueError(
            f"config.json: got model_type={path!r}, a dotted path that cannot be imported ({error})"
        ) from None
    missing = [name for name in PARTS if name not in vars(module)]
    if missing:
        raise ValueError(
            f"config.json: got model_type={path!r}; expected a module with {', '.join(PARTS)}; it "
            f"lacks {', '.join(missing)}"
        )
    return module


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{ftjax.models.families.__name__}.{name}")
