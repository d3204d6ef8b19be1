"""Which weights a directory holds: one hash of its files, for manifests and caches."""

import functools
import hashlib
import os
import pathlib

CONFIG = "config.json"


def fingerprint(directory: str | os.PathLike) -> str:
    """Hash a checkpoint: sha256 over the names and contents of its config and weight files.

    A file is read once a process, unless its size or time of change differ the next time.
    """
    directory, total = pathlib.Path(directory).resolve(), hashlib.sha256()
    # A file system lists files in any order.
    for path in sorted([directory / CONFIG, *directory.glob("*.safetensors")]):
        known = path.stat()
        digest = _sha256(path, known.st_size, known.st_mtime_ns)
        # The format of sha256sum: the hash can be checked without this code.
        total.update(f"{digest}  {path.name}\n".encode())
    return total.hexdigest()


@functools.cache
def _sha256(path: pathlib.Path, size: int, changed: int) -> str:
    del size, changed  # of the key alone
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
