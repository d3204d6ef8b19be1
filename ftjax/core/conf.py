"""Configs: a mapping with a `name` becomes a call, and no key is ever silently ignored.

    build({"name": "dpo", "beta": 0.1}, "objectives", where="config.objective")
    == ftjax.objectives.dpo.make(beta=0.1)

`name` is a module of the named room or any dotted path (`my_lab.losses.foo`); there is no registry.
Configs are ml_collections `ConfigDict`s made by `get_config(arg)` files. Only this module knows
ml_collections, and only mains under `experiments/` use the classes and flags defined here.
"""

import difflib
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import types
from collections.abc import Callable, Iterable, Mapping

PLAIN = {"bool": bool, "float": float, "int": int, "str": str, "None": type(None)}
TRUTH = {"true": True, "1": True, "false": False, "0": False}


def nearest(name: str, legal: Iterable[str]) -> str:
    """Return "did you mean 'x'? " for the legal name nearest to `name`, "" when none is near."""
    close = difflib.get_close_matches(str(name), [str(each) for each in legal], n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def listed(names: Iterable[str]) -> str:
    """Return the names in order for an error message."""
    return ", ".join(sorted(names)) or "nothing"


def resolve(name: str, package: str, *, where: str = "name") -> types.ModuleType:
    """Import `ftjax.<package>.<name>`, or the module at a dotted path such as `my_lab.losses.foo`.

    Raises ValueError with the modules of the room and the nearest name when there is no such
    module. An import that fails inside the module is raised as it is.
    """
    if not isinstance(name, str):
        raise ValueError(f"{where}: got {name!r}; expected the name of a module, a string")
    path = name if "." in name else f"ftjax.{package}.{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not error.name or not f"{path}.".startswith(f"{error.name}."):
            raise
    found = room(package)
    raise ValueError(
        f"{where}: got {name!r}; expected one of {listed(found)}, or a dotted path to a module; "
        f"{nearest(name, found)}no module {path!r} can be imported"
    )


def room(package: str) -> list[str]:
    """Return the names of the modules in `ftjax/<package>`."""
    folder = importlib.import_module(f"ftjax.{package}").__path__
    return sorted(m.name for m in pkgutil.iter_modules(folder) if not m.name.startswith("_"))


def function(name: str, module: types.ModuleType, *, where: str) -> Callable:
    """Return the public function `name` that `module` defines, or the one at a dotted path.

    Raises ValueError with the functions of the module and the nearest name when there is none.
    """
    if isinstance(name, str) and "." in name:
        path, _, own = name.rpartition(".")
        found = vars(importlib.import_module(path)).get(own)
        if not callable(found):
            raise ValueError(f"{where}: module {path!r} has no function {own!r}")
        return found
    legal = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    }
    if name not in legal:
        raise ValueError(
            f"{where}: got {name!r}; expected one of {listed(legal)}, or a dotted path to a "
            f"function; {nearest(name, legal)}see {module.__name__}"
        )
    return legal[name]


def build(spec: Mapping, package: str, *, attr: str = "make", where: str, **extra):
    """Call `attr` of the module that `spec["name"]` names with the other keys of `spec`.

    spec: a dict or a ConfigDict; None is a value like any other.
    extra: what the caller offers besides (a model, a tokenizer); passed where it is named.
    Raises ValueError for an unknown, missing or doubly given keyword and for a value of the wrong
    plain type (int, float, str, bool; an int passes as a float), naming `where`.key.
    """
    keywords = to_dict(spec)
    if "name" not in keywords:
        raise ValueError(f"{where}: got the keys {listed(keywords)}; expected `name` among them")
    module = resolve(keywords.pop("name"), package, where=f"{where}.name")
    function = vars(module).get(attr)
    if not callable(function):
        raise ValueError(f"{where}.name: module {module.__name__!r} has no function `{attr}`")
    return call(function, keywords, where=where, extra=extra)


def call(function: Callable, keywords: Mapping, *, where: str, extra: Mapping | None = None):
    """Call `function` with checked keywords and those of `extra` that its signature names."""
    parameters = inspect.signature(function).parameters.values()
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    offered = {key: value for key, value in (extra or {}).items() if key in named}
    for key, value in keywords.items():
        _check_name(key, named, offered, takes_any=takes_any, where=where)
        if key in named:
            _check_type(value, named[key], where=f"{where}.{key}")
    given = offered | dict(keywords)
    missing = [k for k, p in named.items() if p.default is p.empty and k not in given]
    if missing:
        raise ValueError(f"{where}: got {listed(given)}; expected also {listed(missing)}; add it")
    return function(**given)


def _check_name(key: str, named: Mapping, offered: Mapping, *, takes_any: bool, where: str):
    if key in offered:
        raise ValueError(f"{where}.{key}: got a value; expected none, the program sets it; drop it")
    if key not in named and not takes_any:
        legal = [each for each in named if each not in offered]
        fix = nearest(key, legal)
        raise ValueError(f"{where}.{key}: unknown key; {fix}expected one of {listed(legal)}")


def _check_type(value, parameter: inspect.Parameter, *, where: str):
    kinds = _plain_types(parameter.annotation)
    # What a config cannot hold, such as a traced learning rate of one member, is not judged.
    from_config = value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
    if not kinds or not from_config or (value is None and parameter.default is None):
        return
    if float in kinds:
        kinds = (*kinds, int)
    wrong_bool = isinstance(value, bool) and bool not in kinds
    if wrong_bool or not isinstance(value, kinds):
        expected = parameter.annotation
        expected = expected.__name__ if isinstance(expected, type) else expected
        raise ValueError(f"{where}: got {value!r}; expected {expected}")


def _plain_types(annotation) -> tuple[type, ...]:
    """Return the types of `int`, `float | None`, ...; empty when any part is not a plain type."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    names = [part.strip() for part in text.split("|")]
    return tuple(PLAIN[n] for n in names) if all(n in PLAIN for n in names) else ()


def to_dict(config: Mapping) -> dict:
    """Return a config as plain nested dicts with references resolved."""
    if not _is_section(config):
        raise ValueError(f"config: got {config!r}; expected a mapping with keys")
    return {key: _plain(_get(config, key, key), key) for key in config}


def _plain(value, path: str):
    if _is_section(value):
        return {key: _plain(_get(value, key, f"{path}.{key}"), f"{path}.{key}") for key in value}
    if isinstance(value, list | tuple):
        return type(value)(_plain(each, path) for each in value)
    return value


def _is_section(value) -> bool:
    from ml_collections import config_dict

    return isinstance(value, Mapping | config_dict.ConfigDict)  # a ConfigDict is no Mapping


def _get(config: Mapping, key: str, path: str):
    """Return `config[key]`; a required placeholder that was never set is a ValueError."""
    from ml_collections import config_dict

    try:
        return config[key]
    except config_dict.RequiredValueError as error:
        message = f"config.{path}: not set; expected a value; pass --config.{path}=..."
        raise ValueError(message) from error


def parse_arg(arg: str | None, **defaults) -> types.SimpleNamespace:
    """Read the text behind `config.py:`, as `rank=8,runlocal`, typed by `defaults`.

    A bare name sets a bool to True; a default of None takes a string. Raises ValueError for an
    unknown or repeated key and for a value that is not of the default's type.
    """
    values = {}
    for item in filter(None, (arg or "").split(",")):
        key, has_value, text = (part.strip() for part in item.partition("="))
        if key not in defaults:
            fix = nearest(key, defaults)
            raise ValueError(f"arg {item!r}: unknown key; {fix}expected one of {listed(defaults)}")
        if key in values:
            raise ValueError(f"arg {arg!r}: got {key!r} twice; expected it once")
        values[key] = _typed(text if has_value else None, defaults[key], where=f"arg {item!r}")
    return types.SimpleNamespace(**(defaults | values))


def _typed(text: str | None, default, *, where: str):
    """Return `text` in the type of `default`; None stands for a bare name."""
    kind = str if default is None else type(default)
    if text is None and kind is bool:
        return True
    try:
        return TRUTH[text.lower()] if kind is bool else kind(text)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "true or false" if kind is bool else f"{kind.__name__}, as in key=value"
        raise ValueError(f"{where}: got {text!r}; expected {expected}") from error


def flag(name: str = "config", *, default: str | None = None, flag_values=None):
    """Define `--config file.py:arg`, with `--config.key=value`; return the holder."""
    from absl import flags
    from ml_collections import config_flags

    text = "file.py or file.py:arg that defines get_config(); --config.key=value overrides a key"
    values = flags.FLAGS if flag_values is None else flag_values
    return config_flags.DEFINE_config_file(name, default, text, flag_values=values)


def define_required(holder, *, flag_values=None):
    """Make the program end with a message when the flag of `flag()` is not given."""
    from absl import flags

    values = flags.FLAGS if flag_values is None else flag_values
    flags.mark_flag_as_required(holder.name, flag_values=values)


def given(holder):
    """Return the config that the flag of `flag()` holds.

    Raises:
      ValueError: its file cannot be read.
    """
    try:
        _is_section(holder.value) or holder.value.lock()
    except OSError as error:  # ml_collections raises it when the config is first looked at
        text = " ".join(str(error.__cause__ or error).split())
        raise ValueError(
            f"--{holder.name}: {text}; expected a Python file that defines get_config()"
        ) from error
    return holder.value


def create(**sections):
    """Return a ConfigDict of these keys, nested dicts included."""
    import ml_collections

    return ml_collections.ConfigDict(sections)


def placeholder(kind: type, *, required: bool = False):
    """Return a key of this type that holds None until it is set; reading a required one raises."""
    from ml_collections import config_dict

    return config_dict.required_placeholder(kind) if required else config_dict.placeholder(kind)


def load_function(path: str, name: str) -> Callable:
    """Return the function `name` of a config file; ValueError where there is no such thing."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"config: got {path!r}; expected a Python file with {name}()")
    spec = importlib.util.spec_from_file_location(f"_config_{pathlib.Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if name not in vars(module):
        raise ValueError(f"config: got {path!r}, which has no {name}(); expected one")
    return vars(module)[name]


def load(path_with_arg: str, **overrides):
    """Return the locked config of `file.py` or `file.py:arg`, as the `--config` flag would.

    overrides: dotted keys and their values, `load("configs/x.py", **{"optim.name": "lion"})`.
    """
    path, has_arg, arg = str(path_with_arg).partition(":")
    get_config = load_function(path, "get_config")
    config = get_config(arg) if has_arg else get_config()
    config.lock()
    config.update_from_flattened_dict(overrides)
    return config
