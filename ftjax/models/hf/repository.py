"""Bases that lie elsewhere: which files of a repository make a model, and bringing them here.

    fetch("org/name@v1", where="model.base")            into the Hub's cache
    fetch("gs://bucket/bases/mine", where="model.base")  copies, see `core.remote`

Of a repository come config, tokenizer, chat template and safetensors, and nothing else: no code,
and no pickled weights, which run code when they are read.
"""

import pathlib

from ftjax.core import files, hub_client, remote
from ftjax.models.hf import shards

# Of the model and its tokenizer, what is read here or goes along with an export.
SMALL = (
    "config.json", "generation_config.json", shards.INDEX, "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "merges.txt", "vocab.json",
)  # fmt: skip
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def is_elsewhere(base: str) -> bool:
    """Return whether a base is a URL, or no folder here and maybe a repository of the Hub."""
    if remote.is_url(base):
        return True
    return not pathlib.Path(base).is_dir() and hub_client.parse(base) is not None


def fetch(base: str, *, where: str) -> pathlib.Path:
    """Bring a base here that `is_elsewhere`; returns the folder of its files.

    Raises:
      ValueError: it is not there, not for this user, or has no weights in safetensors.
    """
    return (_of_store if remote.is_url(base) else _of_hub)(base, where=where)


def tokenizer(place: str, *, where: str) -> pathlib.Path:
    """Return the path of a tokenizer, whose files are brought here from a URL or the Hub.

    Raises:
      ValueError: it is elsewhere and not to be had.
    """
    return _part(place, SMALL, where=where)


def adapter(place: str, *, where: str) -> pathlib.Path:
    """Return the folder of a PEFT adapter, whose files are brought here from a URL or the Hub.

    Raises:
      ValueError: it is elsewhere and not to be had, or what is there is no adapter in safetensors.
    """
    folder = _part(place, ADAPTER, where=where)
    if folder != pathlib.Path(place):
        for name in ADAPTER:
            if not (folder / name).is_file():
                raise ValueError(
                    f"{where}: got {place!r}, which has no {name}; expected an adapter of PEFT in "
                    "safetensors; a whole model goes to model.base"
                )
    return folder


def _part(place: str, names: tuple[str, ...], *, where: str) -> pathlib.Path:
    """Bring files of a place here, those of them that it has; a path here is itself."""
    if remote.is_url(place):
        here = remote.sizes(place, where=where)
        if not (found := [name for name in names if name in here]):
            raise ValueError(
                f"{where}: got {place!r}, which has none of {', '.join(names[:4])}; expected some; "
                f"it has {', '.join(sorted(here)[:8]) or 'no file'}"
            )
        return remote.gather(place, found, where=where)
    if not pathlib.Path(place).expanduser().exists() and hub_client.parse(place) is not None:
        return hub_client.snapshot(place, names, where=where)
    return pathlib.Path(place)


def _of_store(base: str, *, where: str) -> pathlib.Path:
    """Copy a base from a URL: first what says which files there are, then all of them."""
    here = remote.sizes(base, where=where)
    small = [name for name in SMALL if name in here]
    if "config.json" not in small:
        raise ValueError(
            f"{where}: got {base!r}, a folder without config.json; expected a Hugging Face "
            f"directory; it has {', '.join(sorted(here)[:8]) or 'no file'}"
        )
    names = weights(remote.gather(base, small, where=where))
    if missing := [name for name in names if name not in here]:
        raise ValueError(
            f"{where}: got {base!r}, which has no {missing[0]}; expected weights in safetensors; "
            "copy all files of the model there"
        )
    return remote.gather(base, [*small, *names], where=where)


def _of_hub(base: str, *, where: str) -> pathlib.Path:
    folder = hub_client.snapshot(base, SMALL, where=where)
    pinned = f"{hub_client.parse(base).id}@{folder.name}"  # the same commit for all of its files
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{where}: got {base!r}, a repository without config.json; expected a model, whose "
            "config.json says what it is; an adapter goes on its base with adapter_from"
        )
    names = weights(folder)
    hub_client.snapshot(pinned, names, where=where)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(_without_weights(base, pinned, folder, missing, where=where))
    return folder


def weights(folder: pathlib.Path) -> list[str]:
    """Name the files of a model's weights: those of the index, else the only one there can be."""
    if not (folder / shards.INDEX).is_file():
        return [shards.WEIGHTS]
    found = files.read_json(folder / shards.INDEX).get("weight_map")
    # What else the index may hold is refused when it is read.
    return sorted({str(name) for name in found.values()}) if isinstance(found, dict) else []


def _without_weights(base, pinned, folder, missing, *, where: str) -> str:
    every = hub_client.sizes(folder, pinned)
    if pickled := [name for name in every if name.endswith(PICKLED)]:
        return (
            f"{where}: got {base!r}, whose weights are pickled ({pickled[0]}); expected "
            "safetensors, since pickled files run code when they are read; take a revision that "
            "has some (the Hub's converter opens a pull request: @refs/pr/N), or convert it"
        )
    return (
        f"{where}: got {base!r}, which has no {missing[0]} in the commit {folder.name[:12]} (or, "
        "offline, in the cache); expected weights in safetensors; name another revision"
    )
