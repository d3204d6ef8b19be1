"""Tables as text: CSV and TSV with a header, UTF-8, plain or gzipped; every value is a text.

    make(path="questions.csv")      -> {"question": "...", "answer": "..."}

Cells in quotes may hold separators and line ends, as RFC 4180 has it. A row with more or fewer
cells than the header is a bad row, listed in `.bad`; a broken file is an error.
"""

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator

from ftjax.data import foreign, locate, spool
from ftjax.data.row import RowError
from ftjax.data.rows import Rows

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
HEAD = 256  # bytes that tell what a file is
OTHERS = ";\t|"  # what else stands between cells, for the advice where all are one
LONGEST = 2**31 - 1  # of a cell; the library's own limit is less than a document


def make(*, path, delimiter: str = "") -> Rows:
    """Read every row of the files that `path` names, in order.

    path: a file, glob, folder, or a list of these. delimiter: between cells; a tab in .tsv files
    and a comma in others if not given.
    Raises ValueError for a path that names nothing and for a damaged file.
    """
    rows, places, bad = spool.List(), spool.Places(), []
    for file in locate.find(path, SUFFIXES, where="data.path"):
        for place, row in _rows(file, delimiter or ("\t" if ".tsv" in file[-7:] else ",")):
            if isinstance(row, RowError):
                bad.append(row.bad)
            else:
                rows.append(row)
                places.append(place)
    return Rows(rows, where=places.__getitem__, bad=bad)


def files(*, path, delimiter: str = "") -> list[str]:
    """Return the files that `make` reads."""
    del delimiter
    return locate.find(path, SUFFIXES, where="data.path")


def _rows(file: str, delimiter: str) -> Iterator[tuple]:
    """Yield (place, row or RowError) of every line but the header."""
    count, line = 0, 0
    try:
        with locate.opened(file) as stream:
            if what := foreign.of_head(stream.peek(HEAD)[:HEAD]):
                raise ValueError(f"{file}: got {what[0]}; expected CSV; {what[1].format(file)}")
            reader = _reader(stream, delimiter)
            header = _header(next(reader, None), file)
            line = reader.line_num
            for cells in reader:
                place, line = f"{file}:{line + 1}", reader.line_num
                if cells:  # not a blank line
                    count += 1
                    yield place, _row(header, cells, place)
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file}:{line + 1}: {_broken(error, file)}") from error
    if not count:
        raise ValueError(f"{file}:1: got no row; expected some under the header; take it out")


def _reader(stream, delimiter: str):
    csv.field_size_limit(LONGEST)
    # A byte-order mark is no part of the first column's name.
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    return csv.reader(text, delimiter=delimiter, strict=True)


def _broken(error: Exception, file: str) -> str:
    """Return what is wrong with a file that cannot be read to its end."""
    if isinstance(error, UnicodeDecodeError):
        return (
            f"got byte 0x{error.object[error.start]:02x} in this line or a later one; expected "
            f"UTF-8; {foreign.to_utf8(error.object[error.start :][:64]).format(file)}"
        )
    if isinstance(error, csv.Error):
        return (
            f"got a broken row ({error}); expected cells whose quotes close, and a quote within "
            'them written twice (""); mend it, or set data.delimiter'
        )
    return (
        f"got damaged gzip data ({error}); expected a complete file; fetch it again, and check it "
        "with `gzip -t`"
    )


def _header(cells: list[str] | None, file: str) -> list[str]:
    names = [cell.strip() for cell in cells or ()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not any(names) or twice:
        raise ValueError(
            f"{file}:1: got {f'the column {twice[0]!r} twice' if any(names) else 'no header'}; "
            "expected a name for each column; write them in the first line"
        )
    other = next((sign for sign in OTHERS if sign in names[0]), None) if len(names) == 1 else None
    if other:
        raise ValueError(
            f"{file}:1: got the one column {names[0][:60]!r}; expected a comma between columns (in "
            f".tsv files a tab); set data.delimiter={other!r}"
        )
    return names


def _row(header: list[str], cells: list[str], place: str) -> dict | RowError:
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    return RowError(
        place, "(line)", found=f"{len(cells)} cells", expected=f"{len(header)}, as the header has",
        fix='put a cell with a separator in quotes ("a, b"), or set data.delimiter',
        reason="cells unlike the header",
    )  # fmt: skip
