"""What a config file says of itself: docstring, arguments, keys, and the keys it could have.

text("configs/sft.py:full")
"""

from collections.abc import Iterator, Mapping

from ftjax.core import config as conf
from ftjax.run import keys


def text(path_with_arg: str) -> str:
    """Return the page of a config for `--help`.

    Raises:
      ValueError: there is no such config, or its argument is wrong.
    """
    path = path_with_arg.partition(":")[0]
    config = conf.load(path_with_arg)
    get_config = conf.load_function(path, "get_config")
    arguments = [f"  {name}={value}" for name, value in conf.arguments(path).items()]
    return "\n".join(
        [
            f"config {path_with_arg}:",
            (get_config.__globals__.get("__doc__") or "").strip(),
            f"\narguments, as --config {path}:name=value,...:",
            *(arguments or ["  none"]),
            "\nkeys, as --config.name=value:",
            *(f"  {key}={value}" for key, value in _leaves(_known(config))),
            "\nkeys that it does not set:",
            *(f"  {section}: {conf.listed(names)}" for section, names in _open(config)),
        ]
    )


def _known(config) -> dict:
    """Return a config as plain dicts; what has to be set yet is None."""
    return {
        # peek: reading a required key that is not set raises.
        key: _known(value) if isinstance(value := conf.peek(config, [key]), type(config)) else value
        for key in config
    }


def _leaves(section: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


def _open(config) -> Iterator[tuple[str, list[str]]]:
    """Yield the sections that have more legal keys than the config sets, and those keys."""
    for path, section in _sections(_known(config)):
        legal = keys.legal_at(config, path)
        if names := [name for name in legal or () if name not in section]:
            yield ".".join(path) or "(top)", names


def _sections(section: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple]:
    yield path, section
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _sections(value, (*path, key))
