"""Configs: a mapping with a `name` becomes a call, and no key is ever silently ignored.

    build({"name": "dpo", "beta": 0.1}, "objectives", where="config.objective")
    == ftjax.objectives.dpo.make(beta=0.1)

`name` is a module of the named room or any dotted path (`my_lab.losses.foo`); there is no registry.
Configs are ml_collections `ConfigDict`s made by `get_config(arg)` files. Only this module knows
ml_collections; `config_flag` has the flags of the mains.
"""

import contextlib
import contextvars
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ftjax.core import shipped, typed

TRUTH = {"true": True, "1": True, "false": False, "0": False}
# What `parse_arg` was called with, for `arguments`.
_DEFAULTS = contextvars.ContextVar("defaults")


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


def attribute(name: str, package: str, attr: str = "make", *, where: str = "name"):
    """Return what a module that `resolve` finds defines as `attr`, None where it does not."""
    return vars(resolve(name, package, where=where)).get(attr)


def room(package: str) -> list[str]:
    """Return the names of the modules in `ftjax/<package>`."""
    folder = importlib.import_module(f"ftjax.{package}").__path__
    modules = pkgutil.iter_modules(folder)
    return sorted(m.name for m in modules if not m.ispkg and not m.name.startswith("_"))


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
    Raises ValueError for an unknown, missing or doubly given keyword and for a value that is not
    what the annotation says (its type, its elements' types, its range; an int passes as a float),
    naming `where`.key.
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
    if not isinstance(keywords, Mapping):
        raise ValueError(f"{where}: got {keywords!r}; expected a section, as dict(key=...)")
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
    if value is None and parameter.default is None:
        return
    check(value, parameter.annotation, where=where)


def check(value, annotation, *, where: str) -> None:
    """Raise ValueError where `value` is not what an annotation says; see `typed`."""
    if expected := typed.problem(value, annotation):
        raise ValueError(f"{where}: got {value!r}; expected {expected}")


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
    except (TypeError, ArithmeticError) as error:  # of the reference
        raise ValueError(
            f"config.{path}: cannot be worked out from the key that it follows ({error}); expected "
            "a number there; correct that key, or set this one"
        ) from error


def parse_arg(arg: str | None, **defaults) -> types.SimpleNamespace:
    """Read the text behind `config.py:`, as `rank=8,runlocal`, typed by `defaults`.

    A bare name sets a bool to True; a default of None takes a string. Raises ValueError for an
    unknown or repeated key and for a value that is not of the default's type.
    """
    _DEFAULTS.set(defaults)
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


def put(config, path: Sequence[str], value) -> None:
    """Set the key at `path`, whether there is one or not; sections on the way are made.

    A part of the path that meets a list is the number of an element. What refers to the key
    follows it. Raises ValueError where the path goes through a value that has no keys, or what
    refers to the key cannot follow it.
    """
    from ml_collections import config_dict

    node = config
    with _followed(path, value), config.unlocked():
        for n, part in enumerate(path[:-1]):
            inner = _known(node, part) if part in node else None
            if isinstance(inner, list | tuple):
                path, value = path[: n + 1], _replaced(inner, path[n + 1 :], value, path)
                break
            if inner is None:
                node[part] = inner = config_dict.ConfigDict()
            if not _is_section(inner):
                name = ".".join(path[: n + 1])
                raise ValueError(f"{name}: got {inner!r}, which has no key {path[n + 1]!r}")
            node = inner
        with node.ignore_type():
            node[path[-1]] = config_dict.ConfigDict(value) if isinstance(value, dict) else value


@contextlib.contextmanager
def _followed(path: Sequence[str], value):
    # A config works out what follows a key when it is locked again.
    try:
        yield
    except (TypeError, ArithmeticError) as error:
        raise ValueError(
            f"config.{'.'.join(path)}: got {value!r}, which another key follows and cannot be "
            f"worked out from ({error}); expected a number"
        ) from error


def _replaced(inner, rest: Sequence[str], value, path: Sequence[str]):
    """Return a list, dict or value in which what lies at `rest` is `value`."""
    if not rest:
        return value
    part, name = rest[0], ".".join(path)
    if isinstance(inner, list | tuple):
        if not part.isdecimal() or int(part) >= len(inner):
            raise ValueError(f"{name}: got the element {part!r}; expected 0 to {len(inner) - 1}")
        new = [*inner]
        new[int(part)] = _replaced(inner[int(part)], rest[1:], value, path)
        return type(inner)(new)
    if inner is not None and not _is_section(inner):
        raise ValueError(f"{name}: got {inner!r} before {part!r}, which has no keys")
    own = {} if inner is None else dict(inner.items())
    return own | {part: _replaced(own.get(part), rest[1:], value, path)}


def peek(config, path: Sequence[str]):
    """Return what lies at `path`, None where nothing does or nothing is set yet."""
    for part in path:
        if isinstance(config, list | tuple) and part.isdecimal() and int(part) < len(config):
            config = config[int(part)]
        elif _is_section(config) and part in config:
            config = _known(config, part)
        else:
            return None
    return config


def _known(config: Mapping, key: str):
    from ml_collections import config_dict

    try:
        return config[key]
    except config_dict.RequiredValueError:
        return None


def create(**sections):
    """Return a ConfigDict of these keys, nested dicts included."""
    import ml_collections

    return ml_collections.ConfigDict(sections)


def from_dataclass(kind: type, *, without: Sequence[str] = (), **values):
    """Return the ConfigDict of a dataclass's defaults, nested ones included.

    A default of None becomes a placeholder of the field's type. values: of fields that have no
    default, or another one.
    """
    found = {}
    for field in dataclasses.fields(kind):
        if field.name in without:
            continue
        value = values.get(field.name, _default(field))
        if dataclasses.is_dataclass(value):
            value = from_dataclass(type(value))
        elif value is None:
            value = placeholder(next(t for t in typed.plain(field.type) if t is not type(None)))
        found[field.name] = value
    return create(**found)


def _default(field: dataclasses.Field):
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default


def placeholder(kind: type, *, required: bool = False):
    """Return a key of this type that holds None until it is set; reading a required one raises."""
    from ml_collections import config_dict

    return config_dict.required_placeholder(kind) if required else config_dict.placeholder(kind)


def load_function(path: str, name: str) -> Callable:
    """Return the function `name` of a config file; ValueError where there is no such thing.

    path: of a Python file, or the bare name of a config that comes with the package: `sft`.
    """
    found = find_function(path, name)
    if found is None:
        raise ValueError(f"config: got {path!r}, which has no {name}(); expected one")
    return found


def find_function(path: str, name: str) -> Callable | None:
    """Return the function `name` of a config file, None where the file has none.

    path: as for `load_function`; ValueError where there is no such file.
    """
    file = _config_file(path, name)
    spec = importlib.util.spec_from_file_location(f"_config.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module).get(name)


def _config_file(path: str, name: str) -> pathlib.Path:
    file, known = pathlib.Path(path), shipped.configs()
    if file.is_file() and file.suffix == ".py":
        return file
    if path in known:
        return known[path]
    if file.is_file():
        raise ValueError(
            f"config: got {path!r}; expected a Python file with {name}(): a config is a "
            "function; write one that starts from `configs.common.base()` and sets these values"
        )
    raise ValueError(
        f"config: got {path!r}; expected a Python file with {name}(), or one of the configs that "
        f"come along: {listed(known)}; {nearest(file.stem, known)}there is no such file"
    )


def arguments(path: str) -> dict[str, Any]:
    """Return what a config file takes behind its name, such as `rank=8`, with the defaults."""
    context = contextvars.Context()  # an empty one: what an earlier call has set is not its own
    context.run(load_function(path, "get_config"))
    return context.get(_DEFAULTS, {})


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
