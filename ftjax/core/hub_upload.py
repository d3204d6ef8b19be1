"""A folder as a repository of the Hugging Face Hub.

user = check("org/name", where="--push")  # before the work: is anybody logged in?
pushed = push(folder, "org/name", private=True, where="--push")
pushed.url, pushed.commit
"""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from ftjax.core import hub_client

# Of an earlier push: beside the new ones a reader might take the wrong ones.
STALE = ("*.safetensors", "*.safetensors.index.json")


class Pushed(NamedTuple):
    """Where a folder is now, and the commit that put it there."""

    url: str
    commit: str


def check(text: str, *, where: str) -> str:
    """Return the user whose token is there, before anything is computed to be uploaded.

    Raises:
      ValueError: the text is no repository, nobody is logged in, or the token is not good.
    """
    _named(text, where=where)
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise ValueError(
            f"{where}: got {text!r}, and nobody is logged in; expected a token that may write; use "
            f"{hub_client.LOGIN}"
        )
    with _explained(text, where=where):
        return HfApi().whoami()["name"]


def push(folder: os.PathLike | str, text: str, *, private: bool = False, where: str) -> Pushed:
    """Upload a folder in one commit; the repository is created where there is none.

    Weights that are there from before go in the same commit; other files stay.

    private: nobody else may see it; one that is public already is refused.

    Raises:
      ValueError: the user may not write there, or nobody answers.
    """
    repo = _named(text, where=where)
    from huggingface_hub import HfApi

    api = HfApi()
    with _explained(text, where=where):
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise ValueError(
                f"--private: got a repository that is public, {url}; expected a private or a new "
                "one; change its settings there, or leave the flag out"
            )
        found = api.upload_folder(
            repo_id=repo, folder_path=folder, delete_patterns=list(STALE),
            commit_message="Upload by ftjax",
        )  # fmt: skip
    return Pushed(str(url), found.oid)


def _named(text: str, *, where: str) -> str:
    repo = hub_client.required(text, where=where)
    if repo.revision:
        raise ValueError(
            f"{where}: got {text!r}; expected {repo.id!r}: an upload is a new commit of the main "
            "branch; leave out the revision"
        )
    return repo.id


@contextlib.contextmanager
def _explained(text: str, *, where: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    # HTTPError is of the HTTP library: nobody answers, say.
    except (OSError, errors.HTTPError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{where}: got {text!r}, where nothing could be written: {said}; expected a repository "
            f"of yours, and a token that may write; use {hub_client.LOGIN}"
        ) from None
