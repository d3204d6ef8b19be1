r"""Questions with their answers, read from any source of rows: what all arms are asked.

A row has `prompt` or `question`, and `answers`, `answer` or `response`; maybe an `id`, the
`passage_id` (or a list of them) that answers it, its `need`, and as `stale` what was right before
the knowledge changed. A `question` is put into the section's `template`, "Q: {question}\nA:"
without one; a `prompt` stays as it is without one. A section's `fields` says where these stand in
rows of other names: dict(answer="label").
"""

import sys
from collections.abc import Mapping
from typing import NamedTuple

from ftjax.core import config as conf
from ftjax.data.rows import Rows
from ftjax.decide.leakage import Item
from ftjax.evals import generate

TEMPLATE = "Q: {question}\nA:"
# Of a section, not of its source.
OURS = ("template", "normalize", "limit", "weight", "label", "kind", "fields")
FEW = 50  # items below which intervals are wide


class Question(NamedTuple):
    """A question; gold: ids of the passages that answer it, maybe none known."""

    id: str | None
    need: str
    prompt: str
    response: str  # what training learns
    answers: tuple[str, ...]
    gold: tuple[str, ...]
    normalize: str
    where: str
    stale: tuple[str, ...] = ()  # answers that were right before the knowledge changed
    section: str = ""  # that it was read from

    @property
    def item(self) -> Item:
        """What of it may leak."""
        return Item(self.id, self.prompt, self.where)


def read(
    sections: Mapping[str, Mapping], *, where: str, is_limited: bool = True
) -> list[Question]:  # fmt: skip
    """Read the questions of all sections; those of kind "text" are no questions.

    is_limited: whether a section's `limit` counts.

    Raises:
      ValueError: a row without question or answer, an id twice, or no row at all.
    """
    found, seen = [], {}
    for need, section in sections.items():
        if section.get("kind") == "text":
            continue
        rows = source(section, where=f"{where}.{need}")
        limit = section.get("limit")
        conf.check(limit, int | None, where=f"{where}.{need}.limit")
        count = len(rows) if limit is None or not is_limited else min(limit, len(rows))
        for i in range(count):
            # Spread evenly over the source, the same ones every time.
            own = _question(rows, i * len(rows) // count, need, section)
            if own.id is not None and own.id in seen:
                raise ValueError(
                    f"{own.where}: got the id {own.id!r}, as at {seen[own.id]}; expected each "
                    "once; rename or delete one"
                )
            seen[own.id] = own.where
            found.append(own)
    return found


def source(section: Mapping, *, where: str) -> Rows:
    """Open the source that a section names; rows that it cannot read are an error."""
    own = {key: value for key, value in section.items() if key not in OURS}
    rows = conf.build(own, "data.sources", where=where)
    if rows.bad:
        raise ValueError(rows.bad[0].message)
    if not len(rows):
        raise ValueError(f"{where}: got no row; expected at least one; fill it")
    return rows


def renamed(row: Mapping, fields: Mapping[str, str] | None, *, where: str) -> Mapping:
    """Return a row with the fields that `fields` finds in others of it.

    Raises:
      ValueError: the row lacks one.
    """
    if missing := sorted(set((fields or {}).values()) - set(row)):
        raise ValueError(
            f"{where}: fields: got {missing[0]!r}, which the row lacks; expected some of "
            f"{conf.listed(row)}"
        )
    return {**row, **{name: row[other] for name, other in (fields or {}).items()}}


def _question(rows: Rows, i: int, need: str, section: Mapping) -> Question:
    row, where = renamed(rows[i], section.get("fields"), where=rows.where(i)), rows.where(i)
    answers = tuple(generate.references(row, where=where))
    prompt = _prompt(row, section.get("template"), where=where)
    response = row.get("response")
    if not isinstance(response, str):
        response = answers[0] if prompt[-1:].isspace() else f" {answers[0]}"
    gold = row.get("passage_id") or ()
    gold = (gold,) if isinstance(gold, str) else tuple(gold)
    stale = row.get("stale") or ()
    name = row.get("id")
    return Question(
        None if name is None else str(name), str(row.get("need") or need), prompt, response,
        answers, gold, section.get("normalize", "squad"), where,
        (stale,) if isinstance(stale, str) else tuple(stale), need,
    )  # fmt: skip


def _prompt(row: Mapping, template: str | None, *, where: str) -> str:
    if not isinstance(row.get("prompt", row.get("question")), str):
        raise ValueError(
            f"{where}: got the fields {sorted(row)}; expected prompt or question, a text"
        )
    if template is None and "prompt" in row:
        return row["prompt"]
    try:
        return (template or TEMPLATE).format_map({"question": row.get("prompt"), **row})
    except KeyError as error:
        raise ValueError(
            f"{where}: template: got {template!r}, whose field {error} the row lacks; expected "
            f"some of {conf.listed(row)}"
        ) from None


def needs(found: list[Question]) -> dict[str, list[int]]:
    """Return the places of the questions of every need; few are warned about."""
    places: dict[str, list[int]] = {}
    for i, each in enumerate(found):
        places.setdefault(each.need, []).append(i)
    for need, own in places.items():
        if len(own) < FEW:
            sys.stderr.write(
                f"test.{need}: {len(own)} questions, fewer than {FEW}: intervals are wide\n"
            )
    return places
