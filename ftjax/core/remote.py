"""Files at a URL, such as gs:// and s3://, copied here before they are read.

    find("gs://bucket/data/*.jsonl", (".jsonl",), where="data.path")    # paths of the copies
    gather("s3://bucket/base", ["config.json"], where="model.base")     # a folder of copies

Any scheme of fsspec will do; its packages bring their own credentials (`ftjax[gs]`, `ftjax[s3]`).
A copy is kept in the cache folder (FTJAX_CACHE) under a hash of the URL and of what the store says
of the file, its size and its time or tag: a file that has changed there is copied again. Of the
processes of a host one copies, and the others wait. What is written to a URL is a workdir alone,
see `core.mirror`.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

# As pathlib leaves it too, with one slash; a single letter is a drive.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs", "az": "adlfs"}


def is_url(path: Any) -> bool:
    """Return whether a path has a scheme."""
    return isinstance(path, str | os.PathLike) and bool(URL.match(os.fspath(path)))


def check_local(path: Any, *, where: str) -> None:
    """Check that what will be written to is a path of this machine.

    Raises:
      ValueError: it is a URL.
    """
    if is_url(path):
        raise ValueError(
            f"{where}: got {os.fspath(path)!r}; expected a directory: of what is written, the "
            "--workdir of a run alone may be a URL; mount the bucket (gcsfuse, mount-s3) and name "
            "the mount, or write to a local disk and copy it (gcloud storage rsync, aws s3 sync)"
        )


def check_package(url: str, *, where: str) -> None:
    """Check, without asking anybody, that the package is there which reads and writes a URL.

    Raises:
      ValueError: it is not installed, or no package knows the scheme.
    """
    import fsspec

    with explained(url, where=where):
        fsspec.get_filesystem_class(url.partition(":")[0])


def find(url: str, suffixes: tuple[str, ...], *, where: str) -> list[str]:
    """Copy the files that a URL names; returns the copies, sorted by their names there.

    url: a file, a glob, or a folder, which is searched downwards for `suffixes`.

    Raises:
      ValueError: it names nothing, or cannot be reached.
    """
    with explained(url, where=where):
        store, path = open_store(url)
        if any(sign in path for sign in "*?["):
            found = sorted(
                p for p in store.glob(path) if not _is_hidden(p, path) and store.isfile(p)
            )
        elif store.isfile(path):
            found = [path]
        else:
            shown = (each for each in store.find(path) if not _is_hidden(each, path))
            found = sorted(each for each in shown if each.endswith(suffixes))
    if not found:
        raise ValueError(
            f"{where}: got {url!r}; expected a file, a glob, or a folder with some of "
            f"{', '.join(suffixes)}; nothing there is one"
        )
    with explained(url, where=where):
        return [str(_copy(store, path, _key(store, [path]))) for path in found]


def sizes(url: str, *, where: str) -> dict[str, int]:
    """List the files that lie directly in a folder: bytes by name.

    Raises:
      ValueError: there is no such folder, or it cannot be reached.
    """
    with explained(url, where=where):
        store, path = open_store(url)
        found = store.ls(path, detail=True)
    files = [each for each in found if each["type"] == "file"]
    return {each["name"].rpartition("/")[2]: each["size"] for each in files}


def gather(url: str, names: Sequence[str], *, where: str) -> pathlib.Path:
    """Copy files of a folder into one folder here, and return it; all are of one listing.

    Raises:
      ValueError: one is not there, or cannot be reached.
    """
    with explained(url, where=where):
        store, path = open_store(url)
        paths = [f"{path.rstrip('/')}/{name}" for name in names]
        key = _key(store, paths)
        copies = [_copy(store, each, key) for each in paths]
    return copies[0].parent


# -- copies ----------------------------------------------------------------------------------------


def folder(name: str = "remote") -> pathlib.Path:
    """Return where copies are: in the cache, or with FTJAX_CACHE="" in one of the process."""
    given = os.environ.get("FTJAX_CACHE")
    check_local(given, where="FTJAX_CACHE")
    if given == "":
        return _temporary() / name
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ftjax"
    return pathlib.Path(given or home).expanduser() / name


@functools.cache
def _temporary() -> pathlib.Path:
    made = pathlib.Path(tempfile.mkdtemp(prefix="ftjax-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _key(store, paths: Sequence[str]) -> str:
    """Hash which files these are, as they are now."""
    said = [f"{store.unstrip_protocol(path)} {store.ukey(path)}" for path in paths]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def _copy(store, path: str, key: str) -> pathlib.Path:
    """Return the copy of a file, whole or made now; its path names bucket and folders."""
    import filelock
    from fsspec.callbacks import TqdmCallback

    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    target = (folder() / key).joinpath(*parts)
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.with_name(f".{target.name}.lock")):
        if not target.is_file():  # nobody else has copied it meanwhile
            draft = target.with_name(f".{target.name}.draft")
            # No bar where nobody watches.
            bar = dict(desc=target.name, unit="B", unit_scale=True, disable=None)
            with TqdmCallback(tqdm_kwargs=bar) as shown:
                store.get_file(path, str(draft), callback=shown)
            draft.replace(target)
    return target


def _is_hidden(path: str, root: str) -> bool:
    """Return whether a part of a path is hidden that the folder or the glob does not spell."""
    hidden = {part for part in path.split("/") if part.startswith(".")}
    return not hidden <= set(root.split("/"))


# -- stores ----------------------------------------------------------------------------------------


def open_store(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    import fsspec

    return fsspec.core.url_to_fs(url)


@contextlib.contextmanager
def explained(url: str, *, where: str) -> Iterator[None]:
    """Turn what a store raises into one line."""
    scheme = url.partition(":")[0]
    try:
        yield
    except ImportError:
        raise ValueError(
            f"{where}: got {url!r}, and the package that reads {scheme}:// is not installed; "
            f"expected it; pip install {PACKAGES.get(scheme, 'the one that fsspec names')}"
        ) from None
    except FileNotFoundError:
        raise ValueError(
            f"{where}: got {url!r}, and there is no such file or folder; expected one; list its "
            "parent, and check the bucket's name"
        ) from None
    except (OSError, ValueError) as error:  # an unknown scheme is a ValueError
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{where}: got {url!r}, which cannot be read ({said}); expected a URL that this "
            "machine may read; check its scheme, the network and the credentials"
        ) from None
