"""JSON Lines files, plain or gzipped: one JSON object a line, UTF-8. Also one JSON array a file.

    make(path="train.jsonl")    make(path=["a.jsonl.gz", "shards/*.jsonl", "folder"])

Blank lines are skipped. A line that is not a JSON object is a bad row: it is listed in `.bad` with
file and line, and `rows.check` raises for it or counts it. A damaged file (truncated gzip, no rows
at all) is an error whatever is done about bad rows, because what is lost then is not known; so is a
file of another kind, such as UTF-16 or Parquet, with the command that mends it.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator

from ftjax.data import foreign, locate, spool
from ftjax.data.row import RowError, describe
from ftjax.data.rows import Rows

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz")
HEAD = 256  # bytes that tell what a file is


def make(*, path) -> Rows:
    """Read every row of the files that `path` names, in order.

    path: a file (.jsonl, .jsonl.gz), glob, folder, or a list of these.
    Raises ValueError for a path that names nothing and for an empty, damaged or foreign file.
    """
    return read(path, where="data.path")


def files(*, path) -> list[str]:
    """Return the files that `make` reads."""
    return locate.find(path, SUFFIXES, where="data.path")


def read(path, *, where: str) -> Rows:
    """Read files as `make` does; `where` names the key or flag that gave the path, for errors."""
    rows, places, bad = spool.List(), spool.Places(), []
    for file in locate.find(path, SUFFIXES, where=where):
        before = len(rows) + len(bad)
        for place, read in _items(file):
            try:
                rows.append(read())
                places.append(place)
            except RowError as error:
                bad.append(error.bad)
        if len(rows) + len(bad) == before:
            raise ValueError(
                f"{file}:1: got an empty file; expected one JSON object a line; "
                f"fill it or take it out of {where}"
            )
    return Rows(rows, where=places.__getitem__, bad=bad)


def _items(file: str) -> Iterator[tuple]:
    """Yield (place, function that reads the row) of every line, or of every item of an array."""
    lines = _lines(file)
    first = next(lines, None)
    if first is None:
        return
    number, line = first
    if line.lstrip().startswith(b"[") and (found := _array(file)) is not None:
        for n, row in enumerate(found, start=1):
            place = f"{file}:item {n}"
            yield place, lambda row=row, place=place: _object(row, place)
        return
    yield f"{file}:{number}", lambda: parse(line, f"{file}:{number}", first=True)
    for number, line in lines:
        place = f"{file}:{number}"
        yield place, lambda line=line, place=place: parse(line, place)


def _array(file: str) -> list | None:
    """Return the items of a file that is one JSON array, None when it is none."""
    with locate.opened(file) as stream:
        content = stream.read().removeprefix(codecs.BOM_UTF8)
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _lines(file: str) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of the non-blank lines."""
    number = 0
    try:
        with locate.opened(file) as stream:
            _check_start(file, stream.peek(HEAD))
            for number, line in enumerate(stream, start=1):
                # Some editors put a byte-order mark in front; it is not part of the JSON.
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{file}:{number + 1}: got damaged gzip data ({error}); expected a complete file; "
            "fetch it again, and check it with `gzip -t`"
        ) from error


def _check_start(file: str, head: bytes) -> None:
    if found := foreign.of_head(head[:HEAD]):
        what, mend = found
        raise ValueError(f"{file}: got {what}; expected JSON lines; {mend.format(file)}")


def parse(line: bytes, where: str, *, first: bool = False) -> dict:
    """Return the JSON object on a line, the `first` of its file or not; raises RowError."""
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise RowError(
            where,
            "(line)",
            found=f"byte 0x{line[error.start]:02x} at column {error.start + 1}",
            expected="UTF-8",
            fix=foreign.to_utf8(line.strip()).format(where.rpartition(":")[0]),
            reason="invalid UTF-8",
        ) from error
    except json.JSONDecodeError as error:
        raise _broken(line, where, error, first=first) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(where, error) from error
    return _object(row, where)


def _object(row, where: str) -> dict:
    if not isinstance(row, dict):
        raise RowError(
            where,
            "(line)",
            found=describe(row),
            expected="a JSON object",
            fix="write {...} on every line; a JSON array converts with `jq -c '.[]'`",
            reason="not an object",
        )
    return row


class _Twice(ValueError):
    """A key that an object has more than once."""


def _unique(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return found


def _broken(line: bytes, where: str, error: json.JSONDecodeError, *, first: bool) -> RowError:
    at = len(line.decode("utf-8")[: error.pos].encode("utf-8"))
    start = len(line) - len(line.lstrip())
    what, mend = foreign.of_line(line, position=at - start, message=error.msg, first=first)
    # By its place and not `colno`, which starts anew behind the end of the line.
    told = f"broken JSON at column {error.pos + 1} ({error.msg})"
    return RowError(
        where,
        "(line)",
        found=f"{what}: {told}" if what else told,
        expected="one whole JSON object on the line",
        fix=mend.format(where.rpartition(":")[0]),
        reason="broken JSON",
    )


def _unreadable(where: str, error: Exception) -> RowError:
    """Return the error for JSON that is in order, and that cannot be a row."""
    if isinstance(error, _Twice):
        found, fix, reason = f"the key {error} twice", "keep one of them", "key twice"
    elif isinstance(error, RecursionError):
        found, fix, reason = "nesting too deep to read", "drop that field", "nested too deep"
    else:
        found, reason = "a number of thousands of digits", "huge number"
        fix = "write it as text, or drop that field"
    expected = "an object that can be read in one way"
    return RowError(where, "(line)", found=found, expected=expected, fix=fix, reason=reason)
