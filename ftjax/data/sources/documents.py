"""Whole documents for continued training: a folder of text files, or JSON Lines with a text field.

    make(path="books")    ==  Rows of {"text": ..., "source": "books/emma.txt"}

A document longer than `max_tokens` is cut into pieces when it is encoded, so that none of it is
lost: that is what `overlong` means by default for the kind "text".
"""

import codecs

from ftjax.data import locate
from ftjax.data.row import BadRow, RowError
from ftjax.data.rows import Rows
from ftjax.data.sources import jsonl

TEXT = (".txt", ".txt.gz", ".md", ".md.gz", ".rst")


def make(*, path) -> Rows:
    """Read documents: every text file is one, and every row of a JSON Lines file is one.

    path: a file, glob, folder, or a list of these. Raises ValueError for a path that names nothing
    and for a damaged file; a file that is not UTF-8 is a bad row.
    """
    found = files(path=path)
    rows, places, bad = [], [], []
    for file in found:
        source = jsonl.make(path=file) if file.endswith(jsonl.SUFFIXES) else _document(file)
        rows += source
        places += [source.where(i) for i in range(len(source))]
        bad += source.bad
    return Rows(rows, where=places.__getitem__, bad=bad)


def files(*, path) -> list[str]:
    """Return the files that `make` reads."""
    return locate.find(path, (*TEXT, *jsonl.SUFFIXES), where="data.path")


def _document(file: str) -> Rows:
    with locate.opened(file) as stream:
        raw = stream.read().removeprefix(codecs.BOM_UTF8)
    try:
        return Rows([{"text": raw.decode("utf-8"), "source": file}], where=lambda _: f"{file}:1")
    except UnicodeDecodeError as error:
        return Rows([], where=str, bad=[_not_utf8(file, raw, error=error)])


def _not_utf8(file: str, raw: bytes, *, error: UnicodeDecodeError) -> BadRow:
    line = raw.count(b"\n", 0, error.start) + 1
    return RowError(
        f"{file}:{line}",
        "text",
        found=f"byte 0x{raw[error.start]:02x}",
        expected="UTF-8",
        fix="convert the file, for example with `iconv -f latin1 -t utf-8`",
        reason="invalid UTF-8",
    ).bad
