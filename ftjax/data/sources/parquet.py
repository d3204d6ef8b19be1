"""Parquet files, through pyarrow (`pip install "ftjax[parquet]"`).

make(path="data/train-*.parquet", columns=("prompt", "response"))
"""

from collections.abc import Iterator, Sequence

from ftjax.core.config import nearest
from ftjax.data import locate, spool
from ftjax.data.rows import Rows

SUFFIXES = (".parquet",)


def make(*, path, columns: Sequence[str] | None = None) -> Rows:
    """Read every row of the files that `path` names; nested columns become lists and dicts.

    path: a file, glob, folder, or a list of these. columns: read only these.
    Raises ImportError without pyarrow; ValueError for a damaged file or an unknown column.
    """
    rows, places = spool.List(), spool.Places()
    for file in locate.find(path, SUFFIXES, where="data.path"):
        for number, row in enumerate(_read(file, columns), start=1):
            rows.append(row)
            places.append(f"{file}:row {number}")
    return Rows(rows, where=places.__getitem__)


def files(*, path, columns: Sequence[str] | None = None) -> list[str]:
    """Return the files that `make` reads."""
    return locate.find(path, SUFFIXES, where="data.path")


def _read(file: str, columns: Sequence[str] | None) -> Iterator[dict]:
    arrow, parquet = _pyarrow()
    try:
        reader = parquet.ParquetFile(file)
        _known(columns or (), reader.schema_arrow.names, file=file)
        for batch in reader.iter_batches(columns=list(columns) if columns else None):
            yield from batch.to_pylist(maps_as_pydicts="strict")
    except (arrow.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{file}: got damaged parquet data ({error}); expected a complete file; fetch it again"
        ) from error


def _known(columns: Sequence[str], names: Sequence[str], *, file: str) -> None:
    for column in columns:
        if column not in names:
            raise ValueError(
                f"{file}: data.columns: got {column!r}; expected some of {', '.join(names)}; "
                f"{nearest(column, names)}"
            )


def _pyarrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            'data.name="parquet" needs pyarrow; install it with: pip install "ftjax[parquet]"'
        ) from error
    return pyarrow, pyarrow.parquet
