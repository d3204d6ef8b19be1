"""Whole documents for continued training: a folder of text files, or JSON Lines with a text field.

    make(path="books")    ==  Rows of {"text": ..., "source": "books/emma.txt"}

Of web pages (.html) the visible text is taken, and `title` is theirs.

A document longer than `max_tokens` is cut into pieces when it is encoded, so that none of it is
lost: that is what `overlong` means by default for the kind "text".
"""

import codecs

from ftjax.data import foreign, html_text, locate, spool
from ftjax.data.row import BadRow, RowError
from ftjax.data.rows import Rows
from ftjax.data.sources import jsonl

TEXT = (".txt", ".txt.gz", ".md", ".md.gz", ".rst")
HTML = (".html", ".htm", ".html.gz")


def make(*, path) -> Rows:
    """Read documents: every text file is one, and every row of a JSON Lines file is one.

    path: a file, glob, folder, or a list of these. Raises ValueError for a path that names nothing
    and for a damaged file; a file that is not UTF-8 is a bad row.
    """
    return read(path, where="data.path")


def read(path, *, where: str) -> Rows:
    """Read documents as `make` does; `where` names the key that gave the path, for errors."""
    rows, places, bad = spool.List(), spool.Places(), []
    for file in files(path=path, where=where):
        is_lines = file.endswith(jsonl.SUFFIXES)
        source = jsonl.read(file, where=where) if is_lines else _document(file)
        for i, row in enumerate(source):
            rows.append(row)
            places.append(source.where(i))
        bad += source.bad
    return Rows(rows, where=places.__getitem__, bad=bad)


def files(*, path, where: str = "data.path") -> list[str]:
    """Return the files that `make` reads."""
    return locate.find(path, (*TEXT, *HTML, *jsonl.SUFFIXES), where=where)


def _document(file: str) -> Rows:
    with locate.opened(file) as stream:
        raw = stream.read().removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Rows([], where=str, bad=[_not_utf8(file, raw, error=error)])
    row = {"text": text, "source": file}
    if file.endswith(HTML):
        page = html_text.read(text)
        row |= {"text": page.text, "title": page.title}
    return Rows([row], where=lambda _: f"{file}:1")


def _not_utf8(file: str, raw: bytes, *, error: UnicodeDecodeError) -> BadRow:
    line = raw.count(b"\n", 0, error.start) + 1
    return RowError(
        f"{file}:{line}",
        "text",
        found=f"byte 0x{raw[error.start]:02x}",
        expected="UTF-8",
        fix=foreign.to_utf8(raw[error.start :][:64]).format(file),
        reason="invalid UTF-8",
    ).bad
