"""What the rows of training repeat: of each other, nearly, and of the evaluations.

    texts = {"evals.facts": Texts(rows)}
    parts, found = look(parts, eval_texts=texts, near_duplicates="keep", overlaps="error")

"keep" counts, "skip" leaves such rows out, "error" refuses them, "off" does not look. Rows that
are equal are counted where rows are checked; here they are not counted again.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.core import config as conf
from ftjax.data import near, overlap, shingles, spool
from ftjax.data.rows import Rows
from ftjax.data.sources.mixture import Mixture, Part

MODES = ("keep", "skip", "error", "off")
# Where evaluations that take rows as they are find prompts, and the answer that is right.
PROMPTS, ANSWERS = ("prompt", "question", "messages", "text"), ("response", "answer", "answers")


class Texts(Sequence):
    """The texts of rows, made as they are read, and where each comes from.

    rows: dicts. where: number of a row -> its place. text: of a row.
    """

    def __init__(
        self, rows: Sequence = (), where: Callable[[int], str] = str,
        text: Callable[[Mapping], str] = shingles.text_of,
    ):  # fmt: skip
        self.rows, self.where, self._text = rows, where, text

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> str:
        return self._text(self.rows[i])

    def __iter__(self) -> Iterator[str]:
        return map(self._text, (self.rows[i] for i in range(len(self))))


class Copies(NamedTuple):
    """What was found.

    near: rows that are near to an earlier one and not equal to it; None where nobody looked.
    overlap: by evaluation, its rows that are in the training data, and its rows; None likewise.
    touching: training rows that they are in. examples: sentences that show one of each. skipped:
    rows left out for either reason.
    """

    near: int | None = None
    overlap: dict[str, tuple[int, int]] | None = None
    touching: int = 0
    examples: tuple[str, ...] = ()
    skipped: int = 0


class Later(Sequence):
    """The rows of parts, one part after the other, opened when somebody reads them."""

    def __init__(self, parts: Callable[[], Sequence[Part]]):
        self._parts = parts

    @functools.cached_property
    def _rows(self) -> Mixture:
        return Mixture(self._parts())

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict:
        return self._rows[i]

    def where(self, i: int) -> str:
        """Return the place of row `i` in its own source."""
        return self._rows.where(i)


def of_raw(row: Mapping) -> str:
    """Return the prompt and the right answer of a row that an evaluator takes as it is."""
    prompt = next((row[name] for name in PROMPTS if name in row), "")
    answer = next((row[name] for name in ANSWERS if name in row), "")
    if isinstance(answer, int) and not isinstance(answer, bool) and "choices" in row:
        answer = row["choices"][answer] if 0 <= answer < len(row["choices"]) else ""
    if isinstance(answer, list | tuple):
        answer = answer[0] if answer else ""
    return shingles.text_of({"prompt": prompt, "answer": answer})


def check_modes(**modes: str) -> None:
    """Raise ValueError for a value of `on_near_duplicate` or `on_overlap` that cannot be."""
    for key, value in modes.items():
        if value not in MODES:
            raise ValueError(
                f"data.{key}: got {value!r}; expected one of {', '.join(MODES)}; "
                f"{conf.nearest(value, MODES)}"
            )


def look(
    parts: Sequence[Part], *, eval_texts: Mapping[str, Texts], near_duplicates: str, overlaps: str
) -> tuple[tuple[Part, ...], Copies]:
    """Look for both, and return the parts less what is to be skipped, and what was found.

    Raises:
      ValueError: there are some and they are refused, or nothing is left.
    """
    rows = Mixture(parts)
    texts = Texts(rows, rows.where)
    leave = np.zeros(len(texts), bool)
    found = Copies()
    if near_duplicates != "off":
        found = _near(texts, found, leave, mode=near_duplicates)
    if overlaps != "off" and eval_texts:
        found = _overlap(texts, eval_texts, found, leave, mode=overlaps)
    if not leave.any():
        return tuple(parts), found
    ends = np.cumsum([len(part.rows) for part in parts])[:-1]
    kept = tuple(_kept(p, ~each) for p, each in zip(parts, np.split(leave, ends), strict=True))
    return kept, found._replace(skipped=int(leave.sum()))


def _near(texts: Texts, found: Copies, leave: np.ndarray, *, mode: str) -> Copies:
    like = near.near(texts)
    rows = [i for i in np.flatnonzero(like >= 0).tolist() if texts[i] != texts[like[i]]]
    example = [f"{texts.where(i)} is near to {texts.where(int(like[i]))}" for i in rows[:1]]
    if rows and mode == "error":
        raise ValueError(
            f"data.on_near_duplicate: got {len(rows)} of {len(texts)} rows that are nearly the "
            f"same as an earlier one ({example[0]}); expected none; delete them, or set "
            "on_near_duplicate='skip' or 'keep'"
        )
    leave[rows] |= mode == "skip"
    return found._replace(near=len(rows), examples=(*found.examples, *example))


def _overlap(
    texts: Texts, eval_texts: Mapping, found: Copies, leave: np.ndarray, *, mode: str
) -> Copies:
    shared = overlap.EvalGrams(eval_texts).compare(texts)
    examples = [
        f"{eval_texts[label].where(own)} of {label} is in {texts.where(row)}"
        for label, (own, row) in shared.examples.items()
    ]
    if examples and mode == "error":
        rows = shared.rows.items()
        counts = [f"{n} of {shared.sizes[label]} of {label}" for label, n in rows if n]
        raise ValueError(
            f"data.on_overlap: got rows of evaluations in the training data: {', '.join(counts)} "
            f"({examples[0]}); expected none; take them out, or set on_overlap='skip' or 'keep'"
        )
    leave[shared.touching] |= mode == "skip"
    return found._replace(
        overlap={label: (n, shared.sizes[label]) for label, n in shared.rows.items()},
        touching=len(shared.touching), examples=(*found.examples, *examples),
    )  # fmt: skip


def _kept(part: Part, keep: np.ndarray) -> Part:
    own, places = part.rows, np.flatnonzero(keep).tolist()
    if not places:
        raise ValueError(
            f"data: part {part.name!r} ({own.where(0)} and on): got no row that is not skipped as "
            "near to another or in an evaluation; expected some; set on_near_duplicate or "
            "on_overlap to 'keep'"
        )
    rows = Rows(
        spool.Chosen(own, places), where=lambda n: own.where(places[n]), bad=own.bad,
        unread=own.unread, forms=own.forms, duplicates=own.duplicates, kind=own.kind,
    )  # fmt: skip
    return part._replace(rows=rows)
