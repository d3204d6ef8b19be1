"""Rows that training holds back, for who has no second file to measure on.

    data.hold_out=0.05                      a twentieth is not trained on, MOST at most
    evals.held.data.name="held_out"         and is what this evaluation measures

Which rows they are hangs on their content alone: rows that are the same stay on one side, and a row
that is added to the file moves few of the others.
"""

import hashlib
import json
from collections.abc import Callable, Sequence

from ftjax.data import spool
from ftjax.data.rows import Located, Rows

NAME = "held_out"  # in the place of a source: what the run's own data hold back
FEWEST = 10  # rows that differ; of fewer nothing is held back: each is worth more in training
MOST = 500  # more of them narrow an interval little


class TooFew(ValueError):
    """There are too few rows to hold some back."""


def split(source: Sequence, *, share: float, held: bool) -> Rows:
    """Return the rows that are held back, or the others, with the number of those held back.

    Raises:
      TooFew: nothing is held back of so few rows, and that nothing is asked for.
    """
    places = source.where if isinstance(source, Located) else (lambda i: f"row {i} of the source")
    bad = getattr(source, "bad", ())
    marks = [_mark(source, i) for i in range(len(source))]
    order = sorted({mark for mark in marks if mark})
    count = min(MOST, max(1, round(share * len(order)))) if len(order) >= FEWEST else 0
    if held and not count:
        raise TooFew(
            f"data.hold_out: got {share} of {len(order)} rows that differ; expected {FEWEST} at "
            "least; give the evaluation a file of its own"
        )
    chosen = set(order[:count])
    kept = [i for i, mark in enumerate(marks) if (mark in chosen) == held]
    # A row that the source could not parse belongs to training, which says so.
    return Rows(
        spool.Chosen(source, kept), where=lambda i: places(kept[i]), bad=() if held else bad,
        weighted=getattr(source, "weighted", False), held_out=len(marks) - len(kept),
    )  # fmt: skip


def checked(source: Sequence, check: Callable, *, share: float, held: bool) -> Rows:
    """Return the rows of one side, checked; a wrong one is named as in the whole file, the first.

    Rows that are held back are read before the others, which most often are as wrong.
    """
    own = split(source, share=share, held=held)
    try:
        return check(own)
    except ValueError:
        check(source)
        raise


def _mark(source: Sequence, i: int) -> str:
    """Return a hash of a row, by which rows are put in order; "" of one that cannot be read."""
    try:
        text = json.dumps(source[i], sort_keys=True, default=str)
    except ValueError:  # which is said when it is read for training
        return ""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
