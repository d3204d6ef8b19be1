"""Repositories of the Hugging Face Hub: files of one commit, in the cache that other tools share.

    folder = snapshot("org/name", ["config.json", "*.safetensors"], where="model.base")
    folder.name                                             # the commit
    commit("org/set", kind="dataset", where="data.path")    # the commit alone

A repository may be written `org/name@revision`: a branch, a tag or a commit. The cache (HF_HOME),
the server (HF_ENDPOINT), the token (HF_TOKEN, or `hf auth login`) and whether the network is used
(HF_HUB_OFFLINE) are huggingface_hub's own settings. Of the processes of a host one loads a file,
and the others wait for it: the library locks each.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

PART = r"[A-Za-z0-9_][\w.-]*"
NAME = re.compile(rf"({PART}/{PART})(?:@([\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
LOGIN = "`hf auth login`, or HF_TOKEN in the environment"


class Repo(NamedTuple):
    """A repository and a revision of it, "" for its main branch."""

    id: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}" if self.revision else self.id

    @property
    def is_pinned(self) -> bool:
        """Return whether the revision is a commit, which never changes."""
        return bool(COMMIT.fullmatch(self.revision))


def parse(text: str) -> Repo | None:
    """Read `org/name[@revision]`; None for what cannot be one, such as a longer path."""
    match = NAME.fullmatch(str(text))
    return Repo(match[1], match[2] or "") if match else None


def required(text: str, *, where: str) -> Repo:
    """Read `org/name[@revision]`.

    Raises:
      ValueError: it is something else.
    """
    if (found := parse(text)) is None:
        raise ValueError(
            f"{where}: got {text!r}; expected a repository of the Hub, such as 'org/name' or "
            "'org/name@revision'"
        )
    return found


def commit(text: str, *, kind: str = "model", where: str) -> str:
    """Return the commit that a revision stands for now; offline, the one that is in the cache.

    Raises:
      ValueError: there is no such repository or revision, it is not for this user, or nobody
        answers and the cache does not know it.
    """
    repo = required(text, where=where)
    if repo.is_pinned:
        return repo.revision
    from huggingface_hub import HfApi

    with _explained(repo, kind=kind, where=where):
        return HfApi().resolve_revision(
            repo.id, repo_type=kind, revision=repo.revision or None
        ).resolved  # fmt: skip


def snapshot(
    text: str, patterns: Sequence[str], *, kind: str = "model", where: str
) -> pathlib.Path:  # fmt: skip
    """Bring the files of these names or patterns into the cache; returns the folder of the commit.

    Raises:
      ValueError: as `commit`, or files could not be had.
    """
    repo = required(text, where=where)
    from huggingface_hub import snapshot_download

    with _explained(repo, kind=kind, where=where):
        found = snapshot_download(
            repo.id, repo_type=kind, revision=repo.revision or None, allow_patterns=list(patterns)
        )
    return pathlib.Path(found)


def sizes(folder: pathlib.Path, text: str, *, kind: str = "model") -> dict[str, int]:
    """List all files of a repository at the commit of a snapshot: bytes by name.

    Where the cache does not know the list (it was filled by an older library), those in the cache.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    repo = required(text, where="hub")
    try:
        found = get_cached_repo_tree(repo.id, repo_type=kind, revision=folder.name)
        return {each.path: each.size for each in sorted(found, key=lambda each: each.path)}
    except CachedRepoTreeNotFoundError:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


@contextlib.contextmanager
def _explained(repo: Repo, *, kind: str, where: str) -> Iterator[None]:
    """Turn what the library raises into one line that says what to do."""
    from huggingface_hub import errors

    got = f"{where}: got {str(repo)!r}"
    try:
        yield
    except errors.GatedRepoError:
        raise ValueError(
            f"{got}, which is gated; expected a token of somebody who was granted access; ask for "
            f"it at {_page(repo, kind)}, then {_token_hint()}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"{got}, which is no folder here, and no {kind} at {_page(repo, kind)} that you may "
            f"see; expected one; check the name, or, if it is private, {_token_hint()}"
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(
            f"{got}, a repository that has no revision {repo.revision or 'main'!r}; expected a "
            f"branch, a tag or a commit of {_page(repo, kind)}"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.RevisionResolutionError) as error:
        raise ValueError(f"{got}, which is not (whole) in the cache; {_absent(error)}") from None
    except OSError as error:  # those of HTTP too, and a full disk
        raise ValueError(f"{got}, which could not be had: {_line(error)}") from None


def _absent(error: Exception) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            "expected it there, since HF_HUB_OFFLINE is set; load it once without, or copy the "
            f"cache of another machine to {constants.HF_HUB_CACHE}"
        )
    return (
        f"expected an answer of {constants.ENDPOINT} ({_line(error)}); check the network, or "
        "HF_ENDPOINT; with HF_HUB_OFFLINE=1 the cache alone is used"
    )


def _page(repo: Repo, kind: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo.id}"


def _token_hint() -> str:
    from huggingface_hub import get_token

    return f"use another token than the present one: {LOGIN}" if get_token() else f"log in: {LOGIN}"


def _line(error: Exception, *, most: int = 200) -> str:
    return " ".join(str(error).split())[:most]
