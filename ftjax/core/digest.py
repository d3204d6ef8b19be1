"""Know a damaged checkpoint: sha256 of every file, kept in `digest.json` beside them.

Array files carry no checksum of their own, so one flipped bit would load in silence. The digest is
written into the step's temporary directory, before the rename that commits it: a committed step
without a digest is itself damaged.

    write(step_dir)                      # while saving
    reason = problem(step_dir)           # while restoring: None, or ("digest", "state/d/1f: ...")
    quarantine(step_dir, reason="digest")  # 30 -> 30.bad-digest
"""

import hashlib
import json
import os
import pathlib

from ftjax.core import files

NAME = "digest.json"
# Orbax touches these two of its own around the commit; they hold times, no data.
UNSIGNED = {NAME, "commit_success.txt", "_CHECKPOINT_METADATA"}


def write(directory: pathlib.Path, **more) -> None:
    """Write `digest.json` for all files under `directory`, atomically; `more` stands in it too."""
    files.write_json(directory / NAME, {**more, "sha256": _digests(directory)})


def problem(directory: pathlib.Path) -> tuple[str, str] | None:
    """Compare `directory` with its digest.

    Returns None when all files are there unchanged, else a word for the directory's new name and
    a sentence that names the file.
    """
    try:
        expected = json.loads((directory / NAME).read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return "no-digest", f"{NAME} cannot be read ({error})"
    try:
        found = _digests(directory)
    except OSError as error:
        return "unreadable", str(error)
    if missing := sorted(expected.keys() - found.keys()):
        return "missing-file", f"{len(missing)} file(s) gone, first {missing[0]}"
    for name, digest in expected.items():
        if found[name] != digest:
            size = (directory / name).stat().st_size
            return "digest", f"{name} ({size} bytes) has changed since it was written"
    return None


def sign(path: pathlib.Path) -> None:
    """Write the digest of one file beside it, to `<name>.sha256`."""
    files.write_text(_beside(path), _sha256(path) + "\n")


def file_problem(path: pathlib.Path) -> str | None:
    """Compare a file with the digest beside it; None when it is unchanged, else a sentence."""
    try:
        expected = _beside(path).read_text().strip()
    except OSError as error:
        return f"its digest cannot be read ({error})"
    same = _sha256(path) == expected
    return (
        None if same else f"{path.stat().st_size} bytes that have changed since they were written"
    )


def _beside(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.sha256")


def quarantine(directory: pathlib.Path, *, reason: str) -> pathlib.Path:
    """Rename `directory` to `<name>.bad-<reason>`, out of the way of restores; delete nothing."""
    target = directory.with_name(f"{directory.name}.bad-{reason}")
    count = 1
    while target.exists():
        count += 1
        target = directory.with_name(f"{directory.name}.bad-{reason}-{count}")
    os.rename(directory, target)
    return target


def _digests(directory: pathlib.Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): _sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in UNSIGNED
    }


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
