"""JSON Lines files, plain or gzipped: one JSON object a line, UTF-8.

    make(path="train.jsonl")    make(path=["a.jsonl.gz", "shards/*.jsonl", "folder"])

Blank lines are skipped. A line that is not a JSON object is a bad row: it is listed in `.bad` with
file and line, and `rows.check` raises for it or counts it. A damaged file (truncated gzip, no rows
at all) is an error whatever is done about bad rows, because what is lost then is not known.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator

from ftjax.data import files
from ftjax.data.rows import RowError, Rows, describe

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz")


def make(*, path) -> Rows:
    """Read every row of the files that `path` names, in order.

    path: a file (.jsonl, .jsonl.gz), glob, folder, or a list of these.
    Raises ValueError for a path that names nothing and for an empty or damaged file.
    """
    rows, places, bad = [], [], []
    for file in files.find(path, SUFFIXES, where="data.path"):
        before = len(rows) + len(bad)
        for number, line in _lines(file):
            try:
                rows.append(parse(line, f"{file}:{number}"))
                places.append((file, number))
            except RowError as error:
                bad.append(error.bad)
        if len(rows) + len(bad) == before:
            raise ValueError(
                f"{file}:1: got an empty file; expected one JSON object a line; "
                "fill it or take it out of data.path"
            )
    return Rows(rows, where=lambda i: f"{places[i][0]}:{places[i][1]}", bad=bad)


def _lines(file: str) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of the non-blank lines."""
    number = 0
    try:
        with files.opened(file) as stream:
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


def parse(line: bytes, where: str) -> dict:
    """Return the JSON object on a line; raises RowError."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(
            where,
            "(line)",
            found=f"byte 0x{line[error.start]:02x} at column {error.start + 1}",
            expected="UTF-8",
            fix="convert the file, for example with `iconv -f latin1 -t utf-8`",
            reason="invalid UTF-8",
        ) from error
    except json.JSONDecodeError as error:
        raise RowError(
            where,
            "(line)",
            found=f"broken JSON at column {error.colno} ({error.msg})",
            expected="one whole JSON object on the line",
            fix="repair the line; a pretty-printed file converts with `jq -c`",
            reason="broken JSON",
        ) from error
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
