"""The `--config` flag of the mains: a config file, and any of its keys on the command line.

holder = config_flag.define()              # --config=configs/sft.py:full --config.steps=9
flags.FLAGS(config_flag.split_keys(argv))
holder.config.value, holder.keys.value     # "configs/sft.py:full", ["steps=9"]
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

KEYS = "config_key"  # the flag that --config.key=value becomes


class Flag(NamedTuple):
    """The `--config` flag and, beside it, the keys that the command line sets."""

    config: Any  # absl's holder of "file.py:arg"
    keys: Any  # and of the texts "a.b=value"


def define(name: str = "config", *, flag_values=None) -> Flag:
    """Define `--config file.py:arg` and `--config.key=value`; see `split_keys`."""
    from absl import flags

    own = {} if flag_values is None else {"flag_values": flag_values}
    text = (
        "file.py or file.py:arg that defines get_config(), or the name of a config that comes "
        "along; --config.key=value sets any key"
    )
    keys = "what --config.key=value becomes: key=value"
    return Flag(
        flags.DEFINE_string(name, None, text, **own),
        flags.DEFINE_multi_string(KEYS, [], keys, **own),
    )


def define_required(holder: Flag, *, flag_values=None):
    """Make the program end with a message when the flag of `define()` is not given."""
    from absl import flags

    values = flags.FLAGS if flag_values is None else flag_values
    flags.mark_flag_as_required(holder.config.name, flag_values=values)


def split_keys(argv: Sequence[str], *, name: str = "config") -> list[str]:
    """Rewrite `--config.a.b=value` (or `--config.a.b value`, `--noconfig.a.b`) for absl.

    absl knows no flag that nobody defined, and which keys there are is known only once the config
    is loaded: all of them become one flag that repeats.
    """
    found, rest = [], list(argv)
    while rest:
        item = rest.pop(0)
        match = re.fullmatch(rf"--?(no)?{name}\.([^=]+)(=.*)?", item, re.DOTALL)
        if item == "--" or match is None:
            found.append(item)
            if item == "--":
                return found + rest
            continue
        off, key, value = match.groups()
        if value is None:
            bare = off or not rest or rest[0].startswith("--")
            value = f"={not off}" if bare else f"={rest.pop(0)}"
        found.append(f"--{KEYS}={key}{value}")
    return found
