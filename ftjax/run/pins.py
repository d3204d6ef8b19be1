"""Which commits of the Hub a run uses: asked once, kept in its directory, the same ever after.

    settings = pin(settings, Artifacts(workdir))

`model.base="org/name"` becomes `org/name@<commit>`, and so do `tokenizer`, `adapter_from` and the
path of data of name="hub". As config.json and the manifest of checkpoints hold them so, whoever
resumes, evaluates or exports a run reads the files that it began with, whatever the repository has
become since.
"""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

from ftjax.core import files, hub_client, processes
from ftjax.models.hf import repository
from ftjax.run import config
from ftjax.run.artifacts import Artifacts

BASES = ("model", "reference")  # sections whose `base` may be a repository
NAMED = ("tokenizer", "adapter_from")  # keys that may be one
SOURCE = "hub"  # the source whose `path` is one

Choose = Callable[..., str]


def pin(settings: config.Settings, artifacts: Artifacts) -> config.Settings:
    """Return the settings with every repository at a commit: that of the run's beginning.

    Every process must call it; the first one asks.

    Raises:
      ValueError: a repository or its revision is not there, or not for this user.
    """
    # It decides what is a repository too: a folder of that name may lie on one host alone.
    commits = processes.on_first(lambda: _commits(settings, artifacts))
    if not commits:
        return settings

    def pinned(kind: str, text: str, where: str) -> str:
        found = commits.get(f"{kind} {text}")
        return f"{hub_client.parse(text).id}@{found}" if found else text

    return config.read(_rewrite(settings.plain, pinned))


def _commits(settings: config.Settings, artifacts: Artifacts) -> dict[str, str]:
    """Return the commit of each repository by kind and text; new ones go into the run's file."""
    asked: dict[tuple[str, str], str] = {}
    _rewrite(settings.plain, lambda kind, text, where: asked.setdefault((kind, text), where))
    if not asked:
        return {}
    known = files.read_json(artifacts.pins) if artifacts.pins.exists() else {}
    found = dict(known)
    for (kind, text), where in asked.items():
        key = f"{kind} {text}"
        if key not in found:
            found[key] = hub_client.commit(text, kind=kind, where=where)
        sys.stderr.write(f"hub: {where} is {hub_client.parse(text).id} at commit {found[key]}\n")
    if found != known:
        files.write_json(artifacts.pins, found)
    return found


def _rewrite(node: Any, choose: Choose, *, where: str = "") -> Any:
    """Replace what names a repository without a commit by what `choose(kind, text, where)` says."""
    if isinstance(node, list | tuple):
        inner = enumerate(node)
        return type(node)(_rewrite(own, choose, where=f"{where}[{i}]") for i, own in inner)
    if not isinstance(node, dict):
        return node
    inner = f"{where}." if where else ""
    found = {key: _rewrite(own, choose, where=f"{inner}{key}") for key, own in node.items()}
    if where in BASES and _is_open(base := found.get("base")) and repository.is_elsewhere(base):
        found["base"] = choose("model", base, f"{inner}base")
    for key in NAMED if not where else ():
        if _is_open(text := found.get(key)) and not pathlib.Path(text).exists():
            found[key] = choose("model", text, key)
    if found.get("name") == SOURCE and _is_open(path := found.get("path")):
        found["path"] = choose("dataset", path, f"{inner}path")
    return found


def _is_open(text: Any) -> bool:
    """Return whether a value names a repository whose commit is still to be chosen."""
    repo = hub_client.parse(text) if isinstance(text, str) else None
    return repo is not None and not repo.is_pinned
