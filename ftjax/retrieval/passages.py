"""Passages: pieces of a knowledge source that an index finds and an answer cites.

    documents = of_rows([{"id": "emma", "title": "Emma", "text": "..."}], where="passages")
    documents[0].searched                    what an index reads: title and text

A passage knows the document that it was cut from and its characters there, so that a citation can
be looked up: `text == document text[start:end]`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

TEXTS = ("text", "passage", "context")  # fields that hold a passage's text, the first one there
IDS = ("id", "passage_id", "source")  # and its id; `source` is the file of a folder's documents


class Passage(NamedTuple):
    """A piece of text with its id, and characters [start, end) of the document it comes from."""

    id: str
    text: str
    title: str
    document: str
    start: int
    end: int

    @property
    def searched(self) -> str:
        """The text that an index reads: a title often names what its passages only call "it"."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def of_rows(
    rows: Sequence[Mapping], *, where: str, place: Callable[[int], str] | None = None
) -> list[Passage]:
    """Read documents from rows of `text` (or `passage`, `context`), maybe with `id` and `title`.

    A row without an id is called by its number, from 0.

    Args:
      rows: such as those of a JSONL file, or of a folder of texts.
      where: the key that named them, for errors.
      place: index -> file and line of a row.

    Raises:
      ValueError: no rows, a row without text, with an empty one, or with the id of another.
    """
    place = place or (lambda i: f"{where}: row {i}")
    found, seen = [], {}
    for i, row in enumerate(rows):
        text, name = _text(row, place(i)), _id(row, i, place(i))
        if name in seen:
            raise ValueError(
                f"{place(i)}: got the id {name!r}, as at {place(seen[name])}; expected each once, "
                "since answers cite passages by id; rename or delete one"
            )
        seen[name] = i
        title = row.get("title") or ""
        found.append(Passage(name, text, str(title), name, 0, len(text)))
    if not found:
        raise ValueError(f"{where}: got no passage; expected at least one; fill it")
    return found


def _text(row: Mapping, place: str) -> str:
    text = next((row[field] for field in TEXTS if row.get(field) is not None), None)
    if not isinstance(text, str) or not text.strip():
        if text is None:
            raise ValueError(
                f"{place}: got the fields {', '.join(map(str, row))}; expected a passage in one of "
                f"{', '.join(TEXTS)}; the section's `fields` says where it stands, such as "
                'fields=dict(text="body")'
            )
        raise ValueError(
            f"{place}: got {text!r}; expected a passage with words; delete the row, or fill it"
        )
    return text


def _id(row: Mapping, i: int, place: str) -> str:
    name = next((row[field] for field in IDS if row.get(field) not in (None, "")), i)
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise ValueError(f"{place}: id: got {name!r}; expected a text or a whole number")
    return str(name)
