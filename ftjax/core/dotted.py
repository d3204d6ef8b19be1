"""Nested dicts by dotted key.

flatten({"optim": {"name": "adamw"}})   ->  {"optim.name": "adamw"}
"""

from collections.abc import Mapping
from typing import Any


def flatten(config: Mapping, parents: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts by dotted key."""
    found = {}
    for key, value in config.items():
        inner = isinstance(value, Mapping) and value
        found |= flatten(value, f"{parents}{key}.") if inner else {f"{parents}{key}": value}
    return found
