"""Data sets of the Hugging Face Hub, read from their files: Parquet, JSON Lines or CSV.

    make(path="org/set", split="train")        make(path="org/set@v1", subset="main", split="test")
    make(path="org/set", pattern="helpful/train.jsonl.gz")

The files come into the Hub's own cache and are read as by the sources `parquet`, `jsonl` and `csv`.
A run keeps the commit in its config, so that a resume reads the same rows.
"""

import pathlib
from collections.abc import Sequence

from ftjax.core import hub_client
from ftjax.data import hub_splits
from ftjax.data.rows import Rows
from ftjax.data.sources import csv, jsonl, parquet

README = "README.md"


def make(
    *, path: str, split: str = "", subset: str = "", pattern: str = "",
    columns: Sequence[str] | None = None,
) -> Rows:  # fmt: skip
    """Read the rows of a split of a data set.

    path: `org/name`, or `org/name@revision`: a branch, a tag or a commit. split: "train" if not
    given. subset: one of those that the README's `configs` name, else a folder. pattern: a glob
    over the repository's files, in place of split and subset. columns: of Parquet, read only these.
    Raises ValueError naming the key: no such repository, split or subset; it lists those there are.
    """
    found = files(path=path, split=split, subset=subset, pattern=pattern)
    if found[0].endswith(parquet.SUFFIXES):
        return parquet.make(path=found, columns=columns)
    if columns is not None:
        raise ValueError(
            f"data.columns: got {columns!r} for {pathlib.Path(found[0]).name}; expected it for "
            "Parquet alone; drop it: data.fields chooses what is read"
        )
    return (csv if found[0].endswith(csv.SUFFIXES) else jsonl).make(path=found)


def files(
    *, path: str, split: str = "", subset: str = "", pattern: str = "",
    columns: Sequence[str] | None = None,
) -> list[str]:  # fmt: skip
    """Bring the files that `make` reads into the cache, and return them."""
    del columns
    if pattern and (split or subset):
        raise ValueError(
            f"data.pattern: got {pattern!r} beside split={split!r} and subset={subset!r}; expected "
            "one or the other; drop one"
        )
    kind, where = "dataset", "data.path"
    folder = hub_client.snapshot(path, [README], kind=kind, where=where)
    # One commit for all files, whatever is pushed meanwhile.
    pinned = f"{hub_client.required(path, where=where).id}@{folder.name}"
    readme = folder / README
    names = hub_splits.choose(
        list(hub_client.sizes(folder, pinned, kind=kind)),
        readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else "",
        split=split or "train", subset=subset, pattern=pattern, where=where,
    )  # fmt: skip
    hub_client.snapshot(pinned, names, kind=kind, where=where)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(
            f"{where}: got {path!r}, of which {missing[0]} is not in the cache; expected all of "
            f"its {len(names)} files there, since HF_HUB_OFFLINE is set; load it once without"
        )
    return [str(folder / name) for name in names]
