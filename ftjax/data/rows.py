r"""Rows: what a source yields, and the checks that turn it into something that can be encoded.

A source module has `make(**keywords) -> Rows`, a sequence of dicts that knows where each came from.
`check` maps a source's own field names to one of some kinds and refuses rows that would train
nothing or the wrong thing, naming file, line, field, what was found and what to do:

    text     {"text": str}
    prompt   {"prompt": str or messages, "response": str or messages}
    chat     {"messages": [{"role": str, "content": str}, ...]}

and those of `preference_rows`: preference, unpaired, ranking.

Any row may carry `weight`, a number that scales its loss; so may an assistant message.

    check(jsonl.make(path="squad.jsonl"), "prompt",
          fields=dict(prompt="{question}\n\n{context}", response="{answers[0]}"))
"""

import math
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ftjax.core.conf import nearest
from ftjax.data import preference_rows

KINDS = {
    "text": ("text",),
    "prompt": ("prompt", "response"),
    "chat": ("messages",),
    **preference_rows.KINDS,
}
ROLES = ("system", "developer", "user", "assistant", "tool")
# Names that other tools give to the same roles, for the advice in an error.
ALIASES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
MODES = ("error", "skip")


class BadRow(NamedTuple):
    """A row that was left out: where it is, a short reason to count by, the whole message."""

    where: str
    reason: str
    message: str


class RowError(ValueError):
    """A row that cannot be used; `.bad` is its record for the summary."""

    def __init__(self, where: str, field: str, *, found: str, expected: str, fix: str, reason: str):
        message = f"{where}: field {field!r}: got {found}; expected {expected}; {fix}"
        super().__init__(message)
        self.bad = BadRow(where, reason, message)


class Rows(Sequence):
    """A sequence of dicts with the place each came from.

    rows: any sequence of dicts; reading an item may raise RowError.
    where: index -> "file:line" or the like, for errors.
    bad: rows that the source could not even parse. They are not part of the sequence.
    """

    def __init__(self, rows: Sequence, *, where: Callable[[int], str], bad: Iterable[BadRow] = ()):
        self._rows = rows
        self._where = where
        self.bad = list(bad)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i):
        return self._rows[i]

    def where(self, i: int) -> str:
        """Return the place of row `i`."""
        return self._where(i)


def check(source: Rows, kind: str, *, fields: Mapping | None = None, on_bad_row: str = "error"):
    """Return `source` as Rows of the fields of `kind`, every row checked.

    fields: field of the kind -> name of a field of the source, or a format string over its fields.
    on_bad_row: "error" raises at the first bad row; "skip" leaves it out and lists it in `.bad`.
    Raises RowError, or ValueError for wrong arguments or when no row is left.
    """
    _legal("kind", kind, legal=KINDS)
    _legal("on_bad_row", on_bad_row, legal=MODES)
    fields = dict(fields or {})
    for name in fields:
        _legal("fields", name, legal=(*KINDS[kind], "weight"))
    if source.bad and on_bad_row == "error":
        raise ValueError(f"{source.bad[0].message}{SKIP_HINT}")
    return _checked(source, PARSERS[kind], fields=fields, skip=on_bad_row == "skip")


SKIP_HINT = "; or set on_bad_row='skip' to leave such rows out and count them"


def _checked(source: Rows, parse: Callable, *, fields: dict, skip: bool) -> Rows:
    good, places, bad = [], [], list(source.bad)
    for i in range(len(source)):
        try:
            good.append(parse(Row(source[i], source.where(i), fields=fields)))
            places.append(i)
        except RowError as error:
            if not skip:
                raise ValueError(f"{error}{SKIP_HINT}") from error
            bad.append(error.bad)
    if not good:
        raise ValueError(f"data: got no usable row; expected at least one; {_first(bad)}")
    return Rows(good, where=lambda i: source.where(places[i]), bad=bad)


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


def describe(value) -> str:
    """Return a value's type and a short look at it, for an error message."""
    if value is None:
        return "null"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


class _Formatter(string.Formatter):
    """`str.format` that refuses lists and dicts: nobody wants their Python spelling in a prompt."""

    def format_field(self, value, format_spec):
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise TypeError(describe(value))
        return super().format_field(value, format_spec)


class Row:
    """One raw row with its place and field map; every reader raises RowError."""

    def __init__(self, raw, where: str, *, fields: Mapping):
        self.raw, self.place, self.fields = raw, where, fields
        if not isinstance(raw, Mapping):
            fix = "write one JSON object a line, such as {...}"
            raise self.error(
                "(row)", describe(raw), expected="an object", fix=fix, reason="not an object"
            )

    def error(self, field: str, found: str, **advice: str) -> RowError:
        """Return a RowError at this row; advice: expected, fix and reason."""
        return RowError(self.place, field, found=found, **advice)

    def value(self, field: str):
        """Return the value that the field map names for `field`, formatted if it is a pattern."""
        spec = self.fields.get(field, field)
        if "{" in spec:
            return self._formatted(field, spec)
        if spec not in self.raw:
            raise self._missing(spec, field)
        return self.raw[spec]

    def _formatted(self, field: str, spec: str) -> str:
        try:
            return _Formatter().vformat(spec, (), self.raw)
        except (KeyError, IndexError) as error:
            raise self._missing(str(error.args[0]), field) from error
        except (TypeError, AttributeError, ValueError) as error:
            expected = "text or numbers in the places of the format string"
            fix = f"pick an item with '{{field[0]}}' in fields.{field}={spec!r} or change the data"
            raise self.error(
                field, str(error), expected=expected, fix=fix, reason="wrong type"
            ) from error

    def _missing(self, name: str, field: str) -> RowError:
        have = ", ".join(map(str, self.raw)) or "none"
        fix = f"{nearest(name, map(str, self.raw))}set fields=dict({field}=...) to a field it has"
        expected = f"a value for {field!r}"
        found = f"no such field (the row has: {have})"
        return self.error(name, found, expected=expected, fix=fix, reason="missing field")

    def text(self, field: str, *, empty: bool = False) -> str:
        """Return the text of `field`; blank text is refused unless `empty`."""
        return self.checked_text(self.value(field), field, empty=empty)

    def checked_text(self, value, field: str, *, empty: bool = False) -> str:
        """Return `value` if it is text that a tokenizer can take."""
        if not isinstance(value, str):
            fix = f"write it as text or map another field with fields=dict({field}=...)"
            raise self.error(field, describe(value), expected="text", fix=fix, reason="wrong type")
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            fix = "repair the lone surrogate escape such as \\ud83d, half of an emoji"
            raise self.error(
                field, "half a character", expected="text", fix=fix, reason="invalid unicode"
            )
        if not empty and not value.strip():
            fix = "there is nothing to learn from it: fill it in or delete the row"
            raise self.error(field, "empty text", expected="text", fix=fix, reason=f"empty {field}")
        return value

    def weight(self) -> float:
        """Return the row's loss weight, 1 when it has none."""
        if "weight" not in self.fields and "weight" not in self.raw:
            return 1.0
        return self.checked_weight(self.value("weight"), "weight")

    def checked_weight(self, value, field: str) -> float:
        """Return `value` if it is a finite number of at least 0."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            fix = "write a plain number; 0 trains nothing, 1 is the usual weight"
            expected = "a finite number of at least 0"
            raise self.error(
                field, describe(value), expected=expected, fix=fix, reason="bad weight"
            )
        return float(value)

    def checked_number(self, value, field: str) -> float:
        """Return `value` if it is a finite number."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            fix = f"write a plain number or drop {field!r}"
            expected = "a finite number"
            raise self.error(
                field, describe(value), expected=expected, fix=fix, reason=f"bad {field}"
            )
        return float(value)

    def messages(self, value, field: str) -> list[dict]:
        """Return `value` if it is a list of messages with known roles and text."""
        if not isinstance(value, list) or not value:
            fix = 'write [{"role": "user", "content": "..."}, {"role": "assistant", ...}]'
            expected = "a list of messages"
            raise self.error(
                field, describe(value), expected=expected, fix=fix, reason="wrong type"
            )
        return [self._message(each, f"{field}[{n}]") for n, each in enumerate(value)]

    def answered(self, messages: list[dict], field: str) -> list[dict]:
        """Return messages if the assistant says something in them."""
        turns = [each for each in messages if each["role"] == "assistant"]
        if not turns:
            found = f"roles {', '.join(each['role'] for each in messages)}"
            fix = "nothing of it would be trained: add the answer or delete the row"
            raise self.error(
                field, found, expected="an assistant turn", fix=fix, reason="no assistant turn"
            )
        if not any((each.get("content") or "").strip() or each.get("tool_calls") for each in turns):
            fix = "nothing of it would be trained: fill it in or delete the row"
            raise self.error(
                field, "empty assistant turns", expected="text", fix=fix, reason="empty response"
            )
        return messages

    def _message(self, message, field: str) -> dict:
        if not isinstance(message, Mapping) or "role" not in message:
            fix = "name the two keys of every message 'role' and 'content'"
            expected = 'an object {"role": ..., "content": ...}'
            raise self.error(
                field, describe(message), expected=expected, fix=fix, reason="bad message"
            )
        role, content = message["role"], message.get("content")
        if role not in ROLES:
            raise self._unknown_role(role, field)
        if content is not None or not message.get("tool_calls"):
            self.checked_text(content, f"{field}.content", empty=True)
        if "weight" in message:
            weight = self.checked_weight(message["weight"], f"{field}.weight")
            if weight and role != "assistant":
                fix = "only assistant turns are trained: drop the weight or use loss='all'"
                expected = "no weight on this role"
                raise self.error(
                    field, f"{role} weight", expected=expected, fix=fix, reason="bad weight"
                )
        return dict(message)

    def _unknown_role(self, role, field: str) -> RowError:
        like = ALIASES.get(role) if isinstance(role, str) else None
        hint = f"did you mean {like!r}? " if like else nearest(str(role), ROLES)
        expected = f"one of {', '.join(ROLES)}"
        fix = f"{hint}rename the role in the file"
        return self.error(
            f"{field}.role", describe(role), expected=expected, fix=fix, reason="unknown role"
        )


def _text(row: Row) -> dict:
    return {"text": row.text("text"), "weight": row.weight()}


def _prompt(row: Row) -> dict:
    prompt, response = row.value("prompt"), row.value("response")
    if not isinstance(prompt, list):
        prompt = row.checked_text(prompt, "prompt", empty=True)
        response = row.checked_text(response, "response")
        return {"prompt": prompt, "response": response, "weight": row.weight()}
    prompt = row.messages(prompt, "prompt")
    if not isinstance(response, list):
        response = row.checked_text(response, "response")
        response = [{"role": "assistant", "content": response}]
    response = row.answered(row.messages(response, "response"), "response")
    return {"prompt": prompt, "response": response, "weight": row.weight()}


def _chat(row: Row) -> dict:
    messages = row.messages(row.value("messages"), "messages")
    return {"messages": row.answered(messages, "messages"), "weight": row.weight()}


PARSERS = {"text": _text, "prompt": _prompt, "chat": _chat, **preference_rows.PARSERS}
