"""Writing a list of tensors as safetensors: one file, or several and their index."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from ftjax.core import files

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor to be written; made when its file is."""

    name: str
    nbytes: int
    make: Callable[[], np.ndarray]


def write(draft: pathlib.Path, entries: Sequence[Entry], max_bytes: int) -> None:
    """Write the weights, and an index when they need several files."""
    shards = _divide(entries, max_bytes)
    weight_map, total = {}, 0
    for number, own in enumerate(shards, start=1):
        # A single file has the name that loaders look for without an index.
        name = WEIGHTS
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # Made file by file, so that the host never holds more than one shard.
        files.write_tensors(draft / name, {entry.name: entry.make() for entry in own})
        weight_map |= {entry.name: name for entry in own}
        total += sum(entry.nbytes for entry in own)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        files.write_json(draft / INDEX, index)


def _divide(entries: Sequence[Entry], max_bytes: int) -> list[list[Entry]]:
    """Cut the list into runs of at most `max_bytes` bytes, or one each."""
    shards, used = [[]], 0
    for entry in entries:
        # A tensor larger than the limit has a file of its own: tensors are never split.
        if shards[-1] and used + entry.nbytes > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(entry)
        used += entry.nbytes
    return shards
