r"""Rows: what a source yields, and the checks that turn it into something that can be encoded.

A source module has `make(**keywords) -> Rows`, a sequence of dicts that knows where each came from.
`check` maps a source's own field names to those of a kind of `kinds.KINDS` and refuses rows that
would train nothing or the wrong thing, naming file, line, field, what was found and what to do.

Rows of other tools are recognised, see `forms`. `fields=dict(weight="score")` scales the loss of a
row by a number of it; an assistant message may carry a `weight`, see `messages`.

    check(jsonl.make(path="squad.jsonl"), "prompt",
          fields=dict(prompt="{question}\n\n{context}", response="{answers[0]}"))
"""

import array
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ftjax.core.config import nearest
from ftjax.data import forms, kinds, spool
from ftjax.data import messages as messages_lib
from ftjax.data.row import BadRow, Row, RowError

MODES = ("error", "skip")
DUPLICATES = ("keep", "skip", "error")
TURNS = ("all", "last", "each")
# Fields beside those of its kind that a conversation may have.
CONTEXT = ("tools", "system")


@runtime_checkable
class Located(Protocol):
    """A source that knows where its rows come from; a plain sequence of dicts does not."""

    bad: Sequence[BadRow]

    def where(self, i: int) -> str:
        """Return the place of row `i`."""


class Rows(Sequence):
    """A sequence of dicts with the place each came from.

    rows: any sequence of dicts; reading an item may raise RowError.
    where: index -> "file:line" or the like, for errors.
    bad: rows that the source could not even parse. They are not part of the sequence.
    weighted: `weight` in a row is meant as the weight of its loss. unread: column -> rows where
    nobody read it. forms: form of `forms` -> rows of it. duplicates: rows that another one before
    is the same as. kind: of checked rows, its name. held_out: rows left to the other side of
    training and evaluation, see `hold_out`.
    """

    def __init__(
        self, rows: Sequence, *, where: Callable[[int], str], bad: Iterable[BadRow] = (),
        weighted: bool = False, unread: Mapping | None = None, forms: Mapping | None = None,
        duplicates: int = 0, kind: str = "", held_out: int = 0,
    ):  # fmt: skip
        self._rows = rows
        self._where = where
        self.bad = list(bad)
        self.weighted = weighted
        self.unread, self.forms = Counter(unread), Counter(forms)
        self.duplicates, self.kind, self.held_out = duplicates, kind, held_out

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i):
        return self._rows[i]

    def where(self, i: int) -> str:
        """Return the place of row `i`."""
        return self._where(i)


def check(
    source: Rows, kind: str, *, fields: Mapping | None = None, on_bad_row: str = "error",
    form: str = "auto", roles: Mapping | None = None, turns: str = "all",
    on_duplicate: str = "keep",
):  # fmt: skip
    """Return `source` as Rows of the fields of `kind`, every row checked.

    fields: field of the kind -> name of a field of the source, or a format string over its fields.
    on_bad_row: "error" raises at the first bad row; "skip" leaves it out and lists it in `.bad`.
    form: one of `forms.FORMS`, or "auto": recognised row by row where `fields` names nothing else.
    roles: role in the file -> role of a message. turns: "all" learns every assistant turn of a
    conversation, "last" the last one, "each" makes one example of each turn and what is before it.
    on_duplicate: rows that give the same example are counted; "skip" leaves all but the first out,
    "error" refuses them.
    Raises RowError, or ValueError for wrong arguments or when no row is left.
    """
    _legal("kind", kind, legal=kinds.KINDS)
    _legal("on_bad_row", on_bad_row, legal=MODES)
    _legal("form", form, legal=("auto", *forms.FORMS))
    _legal("turns", turns, legal=TURNS)
    _legal("on_duplicate", on_duplicate, legal=DUPLICATES)
    fields, roles = dict(fields or {}), dict(roles or {})
    # A prompt and its answer may be a conversation, whatever they are called.
    mapped = forms.FORMS["prompt"] if "prompt" in kinds.KINDS[kind].forms else ()
    for name in fields:
        _legal("fields", name, legal=(*kinds.KINDS[kind].fields, *mapped, *CONTEXT, "weight"))
    for role, name in roles.items():
        _legal(f"roles.{role}", name, legal=messages_lib.MAPPED)
    if not isinstance(source, Located):
        source = Rows(source, where=lambda i: f"row {i} of the source")
    if source.bad and on_bad_row == "error":
        raise ValueError(f"{source.bad[0].message}{SKIP_HINT}")
    options = dict(fields=fields, roles=roles, form=form, kind=kind)
    options["weighted"] = getattr(source, "weighted", False)
    seen = Seen(source.where, on_duplicate)
    return _checked(source, turns=turns, skip=on_bad_row == "skip", seen=seen, **options)


SKIP_HINT = "; or set on_bad_row='skip' to leave such rows out and count them"


class Seen:
    """The rows so far, by hash: finds duplicates, and counts them."""

    def __init__(self, where: Callable[[int], str], on_duplicate: str):
        self._where, self._mode, self._first, self.count = where, on_duplicate, {}, 0

    def is_left_out(self, i: int, parsed: dict, bad: list[BadRow]) -> bool:
        """Return whether row `i` is to be skipped, noting it in `bad`; raises RowError for it."""
        text = json.dumps(parsed, sort_keys=True, default=str)
        first = self._first.setdefault(hash(text), i)
        if first == i:
            return False
        self.count += 1
        if self._mode == "keep":
            return False
        error = RowError(
            self._where(i), "(row)", found=f"the same as {self._where(first)}",
            expected="another row", fix="delete it, or set data.on_duplicate='skip' or 'keep'",
            reason="duplicate",
        )  # fmt: skip
        if self._mode == "error":
            raise ValueError(str(error))
        bad.append(error.bad)
        return True


def _checked(source: Rows, *, turns: str, skip: bool, seen: Seen, kind: str, **options) -> Rows:
    good, places = spool.List(), array.array("q")
    bad, unread, found = list(source.bad), Counter(), Counter()
    annotated = getattr(source, "annotated", False)
    for i in range(len(source)):
        try:
            row = Row(source[i], source.where(i), kind=kind, **options)
            parsed = row.kind.parse(row)
        except RowError as error:
            if not skip:
                raise ValueError(f"{error}{SKIP_HINT}") from error
            bad.append(error.bad)
            continue
        if seen.is_left_out(i, parsed, bad):
            continue
        parsed = _taken(parsed, turns)
        good.extend(parsed)
        places.extend([i] * len(parsed))
        if not annotated:
            unread.update(row.unread())
        found[row.form] += 1
    if not good:
        raise ValueError(f"data: got no usable row; expected at least one; {_first(bad)}")
    where = lambda i: source.where(places[i])
    counted = dict(unread=unread, forms=found, duplicates=seen.count)
    counted["held_out"] = getattr(source, "held_out", 0)
    return Rows(good, where=where, bad=bad, kind=kind, **counted)


def _taken(row: dict, turns: str) -> list[dict]:
    """Return the examples of a conversation: as it is, to its last learned turn, or one a turn."""
    if turns == "all" or "messages" not in row:
        return [row]
    learned = [
        n
        for n, each in enumerate(row["messages"])
        if each["role"] == "assistant" and each.get("weight", 1.0)
    ]
    found = []
    for last in learned if turns == "each" else learned[-1:]:
        before = [
            each | {"weight": 0.0} if each["role"] == "assistant" else each
            for each in row["messages"][:last]
        ]
        found.append(row | {"messages": [*before, row["messages"][last]]})
    return found or [row]


def _first(bad: list[BadRow]) -> str:
    if not bad:
        return "the source is empty, check its path and split"
    return f"all {len(bad)} rows were skipped as bad, the first because {bad[0].message}"


def count_bad(bad: Iterable[BadRow], *, examples: int = 3) -> dict:
    """Return {"count", "reasons": {reason: count}, "examples": the first messages}."""
    bad = list(bad)
    reasons = Counter(each.reason for each in bad)
    shown = [each.message for each in bad[:examples]]
    return {"count": len(bad), "reasons": dict(reasons), "examples": shown}


def _legal(what: str, value: str, *, legal: Iterable[str]) -> None:
    legal = tuple(legal)
    if value not in legal:
        hint = nearest(str(value), legal)
        raise ValueError(f"{what}: got {value!r}; expected one of {', '.join(legal)}; {hint}")
