"""Encoded data on the disk: only the first start of a run encodes them.

    data = cache.keep(key_of(...), make)      # reads what is there, or makes and writes it

An entry is a folder named by a hash of all that the data come of: the files' bytes, the tokenizer,
the options, the evaluations that were looked for, and the code that encodes. Resumes, the units of
a sweep and the processes of a host share it, and map its arrays into memory, so that the pages are
shared too. A writer makes a folder of its own and renames it, so whoever looks sees all of an entry
or nothing, and of two writers the first one's stays.

The folder is FTJAX_CACHE, else `ftjax` in XDG_CACHE_HOME or ~/.cache; FTJAX_CACHE="" keeps nothing.
Entries can be deleted at any time.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ftjax.core import files, remote
from ftjax.data import answer_groups, spool, store
from ftjax.data.copies import Copies
from ftjax.data.row import BadRow
from ftjax.data.sources import mixture

META = "meta.json"
# What encodes besides our own code.
PACKAGES = ("tokenizers", "jinja2", "numpy", "pyarrow")
STORES = {"tokens": store.Store, "groups": answer_groups.Groups}
COUNTERS = ("count", "forms", "unread", "turns")


def folder() -> pathlib.Path | None:
    """Return where entries are; None where nothing is to be kept."""
    given = os.environ.get("FTJAX_CACHE")
    remote.check_local(given, where="FTJAX_CACHE")
    if given is not None:
        return pathlib.Path(given).expanduser() / "encoded" if given else None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "ftjax" / "encoded"


def files_of(name: str, source: Mapping) -> list[str] | None:
    """Return the files that the rows of a source come from; None where it does not say.

    A source says so by a function `files` of its keywords beside its `make`.
    """
    return mixture.files_of(name, source, where="data")


def key_of(
    name: str, source: Mapping, tokenizer, options: Mapping, eval_texts: Mapping | None
) -> str:
    """Return the name of an entry, "" where nothing is to be kept of such data."""
    if folder() is None or (found := files_of(name, source)) is None:
        return ""
    digest = hashlib.sha256(_code().encode())
    plain = json.dumps(files.plain([name, dict(source), dict(options)]), sort_keys=True)
    digest.update(plain.encode("utf-8", "surrogatepass"))
    digest.update(tokenizer.digest().encode())
    for path in found:
        digest.update(path.encode() + b"\0")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for label, texts in (eval_texts or {}).items():
        digest.update(label.encode() + b"\0")
        for text in texts:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:32]


@functools.cache
def _code() -> str:
    """Return a hash of the modules of this folder and of the libraries that they call."""
    found = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.update(f"{name} {importlib.metadata.version(name)}".encode())
    return found.hexdigest()


def keep(key: str, make: Callable[[], Any], *, kind: type) -> Any:
    """Return the data of an entry, made and written where there is none.

    key: from `key_of`. kind: `prepare.Data`, which `make` returns.
    """
    if not key:
        return make()
    place = folder() / key
    if (found := _read(place, kind)) is not None:
        return found
    data = make()
    try:
        _write(place, data)
    except OSError as error:  # a full disk or a folder of somebody else is not worth the run
        warnings.warn(
            f"{place}: {error}; encoded data are not kept; set FTJAX_CACHE to a folder that can be "
            "written, or to nothing",
            RuntimeWarning,
            stacklevel=3,
        )
        return data
    return _read(place, kind) or data  # mapped: the arrays in memory can go


def _read(place: pathlib.Path, kind: type) -> Any | None:
    if not (place / META).is_file():
        return None
    try:
        meta = files.read_json(place / META)
        load = lambda name: np.load(place / f"{name}.npy", mmap_mode="r")
        # As plain arrays, over the same pages: slicing a memmap takes longer.
        arrays = {name: np.asarray(load(name)) for name in meta["arrays"]}
        made = STORES[meta["store"]].of_arrays(arrays, **meta["numbers"])
        return kind(store=made, **_revived(meta["data"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(
            f"{place}: got encoded data that cannot be read ({error}); they are made again",
            RuntimeWarning,
            stacklevel=4,
        )
        shutil.rmtree(place, ignore_errors=True)
        return None


def _revived(plain: dict) -> dict:
    """Return the fields of `prepare.Data` from what JSON has made of them."""
    found = dict(plain)
    found |= {name: Counter(plain[name]) for name in COUNTERS}
    found |= {name: tuple(plain[name]) for name in ("names", "counts", "shares")}
    found["bad"] = [BadRow(*each) for each in plain["bad"]]
    near, overlap, touching, examples, skipped = plain["copies"]
    overlap = overlap and {label: tuple(own) for label, own in overlap.items()}
    found["copies"] = Copies(near, overlap, touching, tuple(examples), skipped)
    return found


def _write(place: pathlib.Path, data: Any) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.{uuid.uuid4().hex}")  # process ids repeat across hosts
    draft.mkdir()
    try:
        arrays = data.store.arrays()
        for name, array in arrays.items():
            _save(draft / f"{name}.npy", array)
        fields = {name: value for name, value in data._asdict().items() if name != "store"}
        name = next(n for n, kind in STORES.items() if type(data.store) is kind)
        meta = dict(store=name, arrays=list(arrays), numbers=data.store.numbers(), data=fields)
        files.write_json(draft / META, meta)
        draft.rename(place)
    except OSError:
        if not (place / META).is_file():  # where another writer was first, its entry is as good
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _save(path: pathlib.Path, whole: np.ndarray) -> None:
    """Write an array as `np.save` does, in blocks."""
    with open(path, "wb") as file:
        header = np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(whole))
        np.lib.format.write_array_header_1_0(file, header)
        for block in spool.blocks(whole):
            file.write(block)
    files.sync(path)
