"""Files on disk: opened with clear errors, and either whole or absent, whatever happens.

write_json(workdir / "summary.json", {"loss": 1.5})       # beside, flushed, renamed
with publish(workdir / "export") as draft: ...            # a whole directory
"""

import contextlib
import difflib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

MAX_HEADER = 2**25  # bytes; ten times that of any model of today


def open_tensors(path: pathlib.Path) -> safetensors.safe_open:
    """Open a safetensors file for lazy reading; its header is checked here.

    The header's size is checked before any of it is read, and the place of every tensor against
    the size of the file before any of them is.

    Raises:
      ValueError: there is no such file, or its header is not sound.
    """
    try:
        _check_header_size(path)
        return safetensors.safe_open(path, framework="np")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; expected a safetensors file") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: got a file whose header cannot be read ({error}); expected safetensors; "
            "fetch or export it again"
        ) from None


def _check_header_size(path: pathlib.Path) -> None:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        room = os.fstat(file.fileno()).st_size - 8
    if not 2 <= size <= min(room, MAX_HEADER):
        raise ValueError(
            f"{path}: got a file whose header cannot be read (it claims {size} bytes; there are "
            f"{max(room, 0)}, and {MAX_HEADER} at most are read); expected safetensors; fetch or "
            "export it again"
        )


def write_tensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file with the metadata that torch readers ask for."""
    path.touch()
    mode = path.stat().st_mode  # the library's own is for the owner alone
    safetensors.numpy.save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(mode)


def read_json(path: pathlib.Path) -> dict:
    """Read a JSON object.

    Raises:
      ValueError: there is no such file, or it holds something else.
    """
    try:
        return json_object(path, path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None


def json_object(path: pathlib.Path | str, content: bytes) -> dict:
    """Return the JSON object that a file holds; `path` is its name, for errors.

    Raises:
      ValueError: it holds something else.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    # A number of thousands of digits is a ValueError, and deep nesting a RecursionError.
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); expected an object; fetch the file again"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: got a JSON {type(value).__name__}; expected an object")
    return value


def write_text(path: os.PathLike | str, text: str) -> pathlib.Path:
    """Write `text` to `path` so that a crash leaves the old file or the new one, never a part."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: os.PathLike | str, content: bytes) -> pathlib.Path:
    """Write `content` to `path`, atomically as `write_text` does."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)
    return path


def try_write(folder: pathlib.Path) -> None:
    """Make a directory and write to it: rights say nothing of a full disk or a read-only mount.

    Raises:
      OSError: it cannot be made, or nothing can be written to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe.{os.getpid()}.tmp"
    probe.write_bytes(b"0")
    probe.unlink()


def sync(path: pathlib.Path) -> None:
    """Flush a file, or the names that a directory holds, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_json(path: os.PathLike | str, value: Any) -> pathlib.Path:
    """Write `value` as indented JSON through `write_text`; NaN and infinities become null."""
    return write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Turn `value` into what JSON can hold: string keys, lists, Python numbers, finite or null."""
    match value:
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case float():
            return float(value) if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case os.PathLike():
            return os.fspath(value)
        case np.generic() | np.ndarray() | jax.Array():
            return plain(np.asarray(value).tolist())
    return str(value)


def inside(directory: pathlib.Path, name: str) -> pathlib.Path:
    """Resolve a file name that came from a file, confined to its directory.

    A link may lead to another file of the directory, or from a snapshot of a Hugging Face cache to
    the `blobs` of the same repository.

    Raises:
      ValueError: the name, or a link of that name, leads out of it.
    """
    if not isinstance(name, str) or name != os.path.basename(name) or name in ("", ".", ".."):
        raise ValueError(f"{directory}: got the file name {name!r}; expected a plain name in it")
    folder, path = directory.resolve(), directory / name
    legal = [folder]
    if folder.parent.name == "snapshots":
        legal.append(folder.parent.parent / "blobs")
    if path.resolve().parent not in legal:
        raise ValueError(
            f"{path}: got a link to {path.resolve()}; expected a file of the directory; copy it "
            "there if you trust it"
        )
    return path


@contextlib.contextmanager
def publish(directory: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary directory to write into, and rename it to `directory` at the end.

    Whoever looks sees nothing or all of it. After an error nothing is left.

    Raises:
      ValueError: `directory` exists and is not empty.
    """
    target = pathlib.Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: exists and is not empty; choose a new directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        for path in [*draft.rglob("*"), draft]:  # on the disk before the name is
            sync(path)
        if target.exists():
            target.rmdir()
        draft.rename(target)
        sync(target.parent)  # a rename is a change of the parent: without this it may be lost
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def complaints(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]],
    *, ignored: Collection[str] = (),
) -> list[str]:  # fmt: skip
    """Compare the tensors that should be there with those that are, name -> shape.

    Returns one line per missing, unexpected or misshapen tensor; a missing one comes with the
    nearest name among the unexpected.
    """
    extra = [name for name in found if name not in wanted and name not in ignored]
    lines = []
    for name in wanted:
        if name not in found:
            near = difflib.get_close_matches(name, extra, n=1)
            lines.append(f"missing {name}" + (f" (nearest: {near[0]})" if near else ""))
        elif tuple(found[name]) != tuple(wanted[name]):
            lines.append(f"{name} has shape {tuple(found[name])}, expected {wanted[name]}")
    return lines + [f"unexpected {name}" for name in extra]


def listing(lines: list[str], *, limit: int = 12) -> str:
    """Join lines for an error message, the first `limit` of them."""
    more = [f"and {len(lines) - limit} more"] if len(lines) > limit else []
    return "; ".join(lines[:limit] + more)
