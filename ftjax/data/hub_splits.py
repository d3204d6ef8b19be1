"""Which files of a data set's repository make a split: what its README says, else their names.

    choose(names, readme, split="train", subset="", pattern="", where="data")

The README's `configs:` name subsets and the files of their splits. Without them names such as
`data/train-00000-of-00002.parquet`, `train.jsonl` and `test/part.csv` say it, and files none of
which names a split are "train".
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ftjax.core.config import nearest
from ftjax.data.sources import csv, jsonl, parquet

SUFFIXES = (*parquet.SUFFIXES, *jsonl.SUFFIXES, *csv.SUFFIXES)
# Of files that are beside the data.
BESIDE = ("dataset_infos.json", "dataset_info.json", "config.json", "state.json")
# Names that people give to splits, and what they mean.
SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
SHARD = re.compile(r"(?:.*/)?([\w.]+?)-\d{5}-of-\d{5}\b.*")
FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)


def choose(
    names: Sequence[str], readme: str, *, split: str, subset: str, pattern: str, where: str
) -> list[str]:
    """Return the names of the files of a split, in order.

    names: all files of the repository. readme: its README.md. subset: one of those that the README
    names, else a folder. pattern: a glob over the names, in place of all that.

    Raises:
      ValueError: there are none, or it is not clear which; names what there is.
    """
    data = [name for name in names if name.endswith(SUFFIXES) and not _is_beside(name)]
    if not data:
        raise ValueError(
            f"{where}: got a repository without data files ({_listed(names)}); expected Parquet, "
            "JSON Lines or CSV; where the Hub has converted it, take that: "
            "'org/name@refs/convert/parquet'"
        )
    if pattern:
        found = [name for name in data if matches(name, pattern)]
        if not found:
            raise ValueError(
                f"{where.rpartition('.')[0]}.pattern: got {pattern!r}, which no file matches; "
                f"expected some of {_listed(data)}"
            )
        return found
    parent = where.rpartition(".")[0]
    subsets = _subsets(readme, data, where=where)
    if subsets:
        splits = _of_subset(subsets, subset, where=f"{parent}.subset")
    else:
        splits = _by_name(_within(data, subset, where=f"{parent}.subset"))
    if split not in splits:
        raise ValueError(
            f"{parent}.split: got {split!r}; expected one of {', '.join(sorted(splits))}; "
            f"{nearest(split, list(splits)) or 'set it'}"
        )
    return _alike(splits[split], split, where=parent)


def matches(name: str, pattern: str) -> bool:
    """Return whether a file's name fits a glob: `*` stays within a folder, `**/` is any folders."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern.removeprefix("./").rstrip("/"))
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(
        signs.get(piece) or (piece.replace("[!", "[^") if piece[:1] == "[" else re.escape(piece))
        for piece in pieces
    )
    return re.fullmatch(f"{text}(?:/.*)?", name) is not None  # a folder stands for what is in it


def _is_beside(name: str) -> bool:
    return name.rpartition("/")[2] in BESIDE or any(p.startswith(".") for p in name.split("/"))


# -- by the README ---------------------------------------------------------------------------------

Splits = dict[str, list[str]]


def _subsets(readme: str, data: Sequence[str], *, where: str) -> dict[str, tuple[bool, Splits]]:
    """Return by name whether a subset of the README is its default, and the files of its splits."""
    match = FRONT.match(readme)
    try:
        front = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"{where}: got a README.md whose head cannot be read ({' '.join(str(error).split())}); "
            f"expected YAML; name the files yourself with {where.rpartition('.')[0]}.pattern"
        ) from None
    configs = front.get("configs") if isinstance(front, Mapping) else None
    found = {}
    for config in configs or ():
        if isinstance(config, Mapping) and (config.get("data_files") or config.get("data_dir")):
            name = str(config.get("config_name", "default"))
            found[name] = bool(config.get("default")), _splits_of(config, data)
    return found


def _splits_of(config: Mapping[str, Any], data: Sequence[str]) -> Splits:
    """Return the files by split that an entry of `configs` names."""
    folder = str(config.get("data_dir") or "").strip("./")
    inside = [name for name in data if not folder or name.startswith(f"{folder}/")]
    given = config.get("data_files")
    if not given:
        return _by_name(inside)
    if not isinstance(given, list) or not all(isinstance(each, Mapping) for each in given):
        given = [{"split": "train", "path": given}]
    found: Splits = defaultdict(list)
    for each in given:
        patterns = each.get("path") or ()
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            full = f"{folder}/{pattern}" if folder else str(pattern)
            found[str(each.get("split", "train"))] += [n for n in inside if matches(n, full)]
    return {split: list(dict.fromkeys(names)) for split, names in found.items() if names}


def _of_subset(subsets: Mapping[str, tuple], subset: str, *, where: str) -> Splits:
    """Return the splits of a subset: the one asked for, the default one, or the only one."""
    defaults = [name for name, (is_default, _) in subsets.items() if is_default]
    name = subset or next(
        iter([*defaults, *(n for n in subsets if n == "default" or len(subsets) == 1)]), ""
    )
    if name not in subsets:
        raise ValueError(
            f"{where}: got {subset!r}; expected one of {', '.join(subsets)}; "
            f"{nearest(subset, list(subsets)) or 'set it'}"
        )
    return subsets[name][1]


# -- by their names --------------------------------------------------------------------------------


def _within(data: Sequence[str], subset: str, *, where: str) -> list[str]:
    """Return the files in folders of a subset's name; all, where there is none to choose."""
    folders = sorted({folder for name in data if (folder := _folder(name))})
    if subset:
        found = [name for name in data if subset in (_folder(name), *_folder(name).split("/"))]
        if not found:
            raise ValueError(
                f"{where}: got {subset!r}; expected a folder of the repository: "
                f"{', '.join(folders) or 'it has none'}; {nearest(subset, folders)}"
            )
        return found
    if len({_folder(name) for name in data}) > 1:
        raise ValueError(
            f"{where}: got none, and the files lie in several folders; expected one of "
            f"{', '.join(folders)}; or name files with {where.rpartition('.')[0]}.pattern"
        )
    return list(data)


def _folder(name: str) -> str:
    """Return the folder of a file, without those that are named `data` or after a split."""
    parts = name.split("/")[:-1]
    return "/".join(part for part in parts if part != "data" and part.lower() not in SPLITS)


def _by_name(data: Sequence[str]) -> Splits:
    found: Splits = defaultdict(list)
    for name in data:
        found[_split_of(name)].append(name)
    if not found.keys() - {""}:  # nothing is said: all of it is there to learn from
        return {"train": found[""]} if found else {}
    for name in found.pop("", ()):  # beside files that say it, each stands for itself
        found[name.rpartition("/")[2].partition(".")[0]].append(name)
    return dict(found)


def _split_of(name: str) -> str:
    """Return the split that a file's name, or a folder's, says; "" for none."""
    if shard := SHARD.fullmatch(name):
        return shard[1]
    *folders, file = name.lower().split("/")
    words = re.split(r"[^a-z0-9]+", file)
    said = [word for word in (*words, *reversed(folders)) if word in SPLITS]
    return SPLITS[said[0]] if said else ""


def _alike(names: list[str], split: str, *, where: str) -> list[str]:
    """Return the files of a split, which are of one kind: of two, both would hold the same rows."""
    kinds = {next(s for s in SUFFIXES if name.endswith(s)).removesuffix(".gz") for name in names}
    if len(kinds) > 1:
        raise ValueError(
            f"{where}.split: got {split!r}, which is there as {' and as '.join(sorted(kinds))}; "
            f"expected one of them; choose with {where}.pattern, such as '**/*{min(kinds)}'"
        )
    return names


def _listed(names: Sequence[str], *, most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "no file at all") + more
