r"""Questions with their answers, read from any source of rows: what all arms are asked.

A row has `prompt` or `question`, and `answers`, `answer` or `response`; maybe an `id`, the
`passage_id` (or a list of them) that answers it, its `need`, `choices`, of which `answer` is one or
the index of one, and as `stale` what was right before the knowledge changed. A `question` is put
into the section's `template`, "Q: {question}\nA:" without one; a `prompt` stays as it is without
one. A section's `fields` says where these stand in rows of other names: dict(answer="label"). Its
`cluster` is a template of a row's fields: questions for which it gives the same text (about one
fact, on one page) are resampled together.
"""

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ftjax.core import config as conf
from ftjax.data.rows import Rows
from ftjax.decide.leakage import Item
from ftjax.evals import choice, generate

TEMPLATE = "Q: {question}\nA:"
# Of a section, not of its source.
OURS = ("template", "normalize", "limit", "weight", "label", "kind", "fields", "cluster")
ASKED = ("prompt", "question")
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
    cluster: str | None = None  # resampled together with others of this name
    choices: tuple[str, ...] = ()
    row: Mapping[str, Any] = MappingProxyType({})  # as it was read, for rewards

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
            at = i * len(rows) // count
            own = _question(rows, at, need, section, named=f"{where}.{need}.fields")
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


def _question(rows: Rows, i: int, need: str, section: Mapping, *, named: str) -> Question:
    row, where = renamed(rows[i], section.get("fields"), where=rows.where(i)), rows.where(i)
    if not {*generate.ANSWERS} & {*row}:
        raise ValueError(_unnamed(row, generate.ANSWERS, where=where, named=f"{named}.answer"))
    choices = tuple(str(each) for each in row.get("choices") or ())
    if choices and isinstance(row.get("answer"), int):
        row = {**row, "answer": choices[choice.answer_index(row, where=where)]}
    answers = tuple(generate.references(row, where=where))
    prompt = _prompt(row, section.get("template"), where=where, named=f"{named}.question")
    response = row.get("response")
    if not isinstance(response, str):
        response = answers[0] if prompt[-1:].isspace() else f" {answers[0]}"
    gold = row.get("passage_id") or ()
    gold = (gold,) if isinstance(gold, str) else tuple(gold)
    stale = row.get("stale") or ()
    name, cluster = row.get("id"), section.get("cluster")
    return Question(
        None if name is None else str(name), str(row.get("need") or need), prompt, response,
        answers, gold, section.get("normalize", "squad"), where,
        (stale,) if isinstance(stale, str) else tuple(stale), need,
        None if cluster is None else _filled(cluster, row, where=f"{where}: cluster"), choices, row,
    )  # fmt: skip


def check_choices(found: Sequence[Question]) -> None:
    """Check that the right answer of every question is one of its choices.

    Raises:
      ValueError: it is not, or there are fewer than two.
    """
    for each in found:
        if len(each.choices) < 2 or each.answers[0] not in each.choices:
            raise ValueError(
                f"{each.where}: choices: got {list(each.choices)} and the answer "
                f"{each.answers[0]!r}; expected it among two or more, or another metric than choice"
            )


def _prompt(row: Mapping, template: str | None, *, where: str, named: str) -> str:
    if not {*ASKED} & {*row}:
        raise ValueError(_unnamed(row, ASKED, where=where, named=named))
    name = next(name for name in ASKED if name in row)
    if not isinstance(row[name], str) or not row[name].strip():
        raise ValueError(
            f"{where}: {name}: got {row[name]!r}; expected a text with words; fill it, or delete "
            "the row"
        )
    if template is None and "prompt" in row:
        return row["prompt"]
    fields = {"question": row.get("prompt"), **row}
    return _filled(template or TEMPLATE, fields, where=f"{where}: template")


def _unnamed(row: Mapping, names: Sequence[str], *, where: str, named: str) -> str:
    return (
        f"{where}: got the fields {', '.join(map(str, row))}; expected one of {', '.join(names)}; "
        f"--config.{named}=FIELD says which it is where it has another name"
    )


def _filled(template: str, row: Mapping, *, where: str) -> str:
    try:
        return template.format_map(row)
    except KeyError as error:
        raise ValueError(
            f"{where}: got {template!r}, whose field {error} the row lacks; expected some of "
            f"{conf.listed(row)}"
        ) from None


def clusters(found: Sequence[Question]) -> list[int]:
    """Number the clusters of questions, by need: those of one have the same number."""
    numbers: dict[tuple, int] = {}
    names = [i if each.cluster is None else each.cluster for i, each in enumerate(found)]
    pairs = ((each.need, name) for each, name in zip(found, names, strict=True))
    return [numbers.setdefault(pair, len(numbers)) for pair in pairs]


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
