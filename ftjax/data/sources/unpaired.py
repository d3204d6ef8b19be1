"""Pairs taken apart: every answer by itself, with the label of whether people preferred it.

    {"prompt", "chosen", "rejected"}
    -> {"prompt", "completion", "label": true}, {"prompt", "completion", "label": false}

For objectives that learn from single answers, such as KTO, on data that was collected as pairs.
"""

from collections.abc import Sequence

from ftjax.data.rows import Rows
from ftjax.data.sources import jsonl

LABELS = {"chosen": True, "rejected": False}


class UnpairedRows(Sequence):
    """Two rows for each row of a source: first what was chosen, then what was rejected."""

    def __init__(self, source: Rows):
        self._source = source

    def __len__(self) -> int:
        return len(LABELS) * len(self._source)

    def __getitem__(self, i: int) -> dict:
        n, side = divmod(i, len(LABELS))
        name, label = list(LABELS.items())[side]
        row = dict(self._source[n])
        if name in row:  # if not, the check of rows says so
            row["completion"] = row[name]
        return {key: x for key, x in row.items() if key not in LABELS} | {"label": label}


files = jsonl.files


def make(*, path) -> Rows:
    """Read the files that `path` names, as `jsonl.make` does, and take their pairs apart."""
    source = jsonl.make(path=path)
    return Rows(
        UnpairedRows(source), where=lambda i: source.where(i // len(LABELS)), bad=source.bad
    )
