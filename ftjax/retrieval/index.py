"""What an index is, its making by name, and its keeping on the disk.

    index = build(dict(name="bm25"), passages, where="index")
    hits = index.search(["Who wrote Emma?"], k=4)         places [1, 4], scores [1, 4]
    index = opened(dict(name="bm25"), passages, folder=workdir / "indexes", where="index")

`name` is one of NAMES, or the dotted path of a module with `make(*, passages, ...)` and
`load(folder, *, passages, ...)`. A kept index lies under a hash of what it was made of, so another
set of passages never finds it; arrays are mapped from the disk, not read.
"""

import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ftjax.core import config as conf
from ftjax.core import files
from ftjax.retrieval.passages import Passage

NAMES = ("bm25", "dense", "fuse")
META = "index.json"
VERSION = 1  # of the files; another one is another hash


class Hits(NamedTuple):
    """The best passages of each query, best first: places int [n, k], scores float32 [n, k].

    A place is a row of the passages; -1 stands where no further passage has anything in common
    with the query, and its score is 0.
    """

    places: np.ndarray
    scores: np.ndarray


class Index(Protocol):
    """Finds passages; made of `passages`, whose rows its places are."""

    nbytes: int  # resident: arrays that a search reads

    def search(self, queries: Sequence[str], *, k: int) -> Hits:
        """Return the best `k` passages of each query."""

    def save(self, folder: pathlib.Path) -> None:
        """Write what `load` of the module reads."""


def top(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places and scores of the k highest positive scores [n]; of equals the first.

    Sorted whole only where needed: all that reach the k-th score, so that ties break by place.
    """
    k = min(k, len(scores))
    border = np.partition(scores, len(scores) - k)[len(scores) - k] if k else np.inf
    chosen = np.flatnonzero(scores >= max(border, np.finfo(np.float32).tiny))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:k]
    return chosen, scores[chosen]


def stack(found: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> Hits:
    """Put (places, scores) of several queries into one rectangle, filled with place -1."""
    hits = Hits(np.full((len(found), k), -1), np.zeros((len(found), k), np.float32))
    for row, (places, scores) in enumerate(found):
        hits.places[row, : len(places)], hits.scores[row, : len(scores)] = places, scores
    return hits


def build(spec: Mapping, passages: Sequence[Passage], *, where: str, **offered) -> Index:
    """Make the index that `spec` names.

    offered: what it may need besides, such as `embed` of dense vectors; see the modules.

    Raises:
      ValueError: an unknown name or keyword, with the nearest legal one, or a missing package.
    """
    _check_name(spec, where)
    return conf.build(spec, "retrieval", where=where, passages=passages, **offered)


def opened(
    spec: Mapping, passages: Sequence[Passage], *, folder: pathlib.Path, where: str,
    identity: str = "", **offered,
) -> Index:  # fmt: skip
    """Load the index of these passages from `folder`, or make it and keep it there.

    identity: of what `offered` stands for, such as a digest of the weights that embed.

    Raises: as `build`; RuntimeError of an index that cannot be read back.
    """
    _check_name(spec, where)
    key = digest(spec, passages, identity=identity)
    kept = pathlib.Path(folder) / f"{spec['name']}-{key[:16]}"
    if not (kept / META).is_file():
        found = build(spec, passages, where=where, **offered)
        with files.publish(kept) as draft:
            found.save(draft)
            files.write_json(draft / META, {"digest": key, "passages": len(passages)})
        return found
    own = conf.to_dict(spec)
    load = conf.attribute(own.pop("name"), "retrieval", "load", where=f"{where}.name")
    try:
        return conf.call(
            load, own, where=where, extra=dict(offered, folder=kept, passages=passages)
        )
    except (OSError, KeyError, EOFError, UnicodeDecodeError) as error:
        raise RuntimeError(
            f"{kept}: got an index that cannot be read ({error}); expected one that was written "
            "whole; remove the folder, and it is made again"
        ) from error


def digest(spec: Mapping, passages: Sequence[Passage], *, identity: str = "") -> str:
    """Return the sha256 of passages, settings and version; a file that settings name is read."""
    whole = hashlib.sha256()
    own = {key: _content(value) for key, value in conf.to_dict(spec).items()}
    whole.update(json.dumps([VERSION, own, identity], sort_keys=True, default=str).encode())
    for passage in passages:
        whole.update(json.dumps(passage).encode())
    return whole.hexdigest()


def _content(value):
    """Return the digest of a file that a setting names, the setting itself otherwise."""
    if isinstance(value, str) and value and pathlib.Path(value).is_file():
        with open(value, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return value


def _check_name(spec: Mapping, where: str) -> None:
    name = spec.get("name")
    if name not in NAMES and "." not in str(name):
        raise ValueError(
            f"{where}.name: got {name!r}; {conf.nearest(str(name), NAMES)}expected one of "
            f"{conf.listed(NAMES)}, or a dotted path to a module"
        )


def report(text: str) -> None:
    """Write a line on what an index left out."""
    sys.stderr.write(f"{text}\n")
