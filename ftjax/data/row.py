"""One row of a source: its fields by name, checked, and the errors that say what is wrong."""

import re
import string
from collections.abc import Mapping
from typing import NamedTuple

from ftjax.core.config import nearest
from ftjax.core.typed import LARGEST
from ftjax.data import forms, kinds
from ftjax.data import messages as messages_lib

# Kinds that an error suggests where their forms fit better, the richer one first.
SUGGESTED = ("chat", "prompt", "text")
# Levels of lists and objects inside of a message: templates walk them by recursion.
DEEPEST = 100


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
    """One raw row with its place and field map; every reader raises RowError.

    kind: a name in `kinds.KINDS`, as an attribute what stands there. form: how its fields are
    spelled. used: the names of the columns that were read.
    """

    def __init__(
        self, raw, where: str, *, kind: str, fields: Mapping, roles: Mapping | None = None,
        form: str = "auto", weighted: bool = False,
    ):  # fmt: skip
        self.raw, self.place, self.fields = raw, where, fields
        self.roles, self.weighted, self.used = roles or {}, weighted, set()
        self.kind = kinds.KINDS[kind]
        if not isinstance(raw, Mapping):
            fix = "write one JSON object a line, such as {...}"
            raise self.wrong("(row)", raw, expected="an object", fix=fix, reason="not an object")
        self._columns = tuple(raw)
        if self._maps_pair():
            self.form = "prompt"
            self._convert_pair()
        else:
            self.form = "fields" if self._is_mapped() else self._form(kind, form)

    def _is_mapped(self) -> bool:
        """Return whether the field map says where the fields of the kind are."""
        return any(self.fields.get(name, name) != name for name in self.kind.fields)

    def _maps_pair(self) -> bool:
        """Return whether the map says where prompt and answer are of what becomes another kind."""
        return any(f in self.fields and f not in self.kind.fields for f in forms.FORMS["prompt"])

    def _convert_pair(self) -> None:
        for field in forms.FORMS["prompt"]:
            self.raw = {**self.raw, field: self.value(field)}
        forms.convert(self, "prompt")

    def _form(self, kind: str, form: str) -> str:
        legal = self.kind.forms
        found = forms.recognise(self.raw, legal) if form == "auto" else form
        if found is None or not legal:
            return kind
        if found not in legal:
            raise ValueError(
                f"data.form: got {form!r}; expected one of {', '.join(legal)} for kind "
                f"{kind!r}; change one"
            )
        for name in forms.FORMS[found] if form != "auto" else ():
            if name not in self.raw and not (name == "conversations" and "messages" in self.raw):
                raise self._missing(name, name)
        forms.convert(self, found)
        return found

    def put(self, field: str, value, *, used: str) -> None:
        """Set a field from the column `used`, which another form has in its place."""
        self.raw = {**self.raw, field: value}
        self.used.add(used)

    def unread(self) -> set[str]:
        """Return the columns that hold something and that nobody has read."""
        names = set(self._columns) - self.used
        return {str(each) for each in names if self.raw[each] is not None}

    def wrong(self, field: str, value, **advice: str) -> RowError:
        """Return a RowError that describes `value`; advice: expected, fix and reason."""
        return self.error(field, describe(value), **advice)

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
        self.used.add(spec)
        return self.raw[spec]

    def optional(self, field: str):
        """Return the value of `field`, None when the row has no such field."""
        spec = self.fields.get(field, field)
        return self.value(field) if "{" in spec or spec in self.raw else None

    def _formatted(self, field: str, spec: str) -> str:
        names = (name for _, name, _, _ in string.Formatter().parse(spec) if name)
        self.used |= {re.split(r"[.\[]", name, maxsplit=1)[0] for name in names}
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
        fix = self._mapping(name, field)
        fits = lambda kind: forms.recognise(self.raw, kinds.KINDS[kind].forms)
        if found := next(filter(fits, SUGGESTED), None):
            fix += f", or data.kind={found!r} (kind={found})"
        expected = f"a value for {field!r}"
        found = f"no such field (the row has: {have})"
        return self.error(name, found, expected=expected, fix=fix, reason="missing field")

    def _mapping(self, name: str, field: str) -> str:
        """Return how to name the right columns, in a config and behind configs/sft.py."""
        of_prompt = kinds.KINDS["prompt"].fields
        pair = forms.likely_pair(self.raw) if name == field else {}
        if pair and field in ("messages", *of_prompt):
            spelled = ", ".join(f"{key}={column!r}" for key, column in pair.items())
            behind = ",".join(map("=".join, pair.items()))
            return f"set fields=dict({spelled}) ({behind} behind configs/sft.py:)"
        fix = f"{nearest(name, map(str, self.raw))}set fields=dict({field}=...) to a field it has"
        return fix + (f" ({field}=FIELD behind configs/sft.py:)" if field in of_prompt else "")

    def text(self, field: str, *, empty: bool = False) -> str:
        """Return the text of `field`; blank text is refused unless `empty`."""
        return self.checked_text(self.value(field), field, empty=empty)

    def checked_text(self, value, field: str, *, empty: bool = False) -> str:
        """Return `value` if it is text that a tokenizer can take."""
        if not isinstance(value, str):
            fix = "write it as text"
            if field.isidentifier():
                fix += f" or map another field with fields=dict({field}=...)"
            raise self.wrong(field, value, expected="text", fix=fix, reason="wrong type")
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            fix = "repair the lone surrogate escape such as \\ud83d, half of an emoji"
            raise self.error(
                field, "half a character", expected="text", fix=fix, reason="invalid unicode"
            )
        if not empty and not value.strip():
            fix = "there is nothing to learn from it: fill it in or delete the row"
            raise self.error(field, "empty text", expected="text", fix=fix, reason=f"empty {field}")
        return value

    def check_texts(self, value, field: str) -> None:
        """Check every text inside of `value` for half a character, and how deep it is."""
        if field.count(".") + field.count("[") > DEEPEST:
            fix = "drop that field"
            expected = f"at most {DEEPEST} levels"
            raise self.error(
                field[:60], "deeper nesting", expected=expected, fix=fix, reason="nested too deep"
            )
        if isinstance(value, str):
            self.checked_text(value, field, empty=True)
        elif isinstance(value, Mapping):
            for key, each in value.items():
                self.check_texts(key, field)
                self.check_texts(each, f"{field}.{key}")
        elif isinstance(value, list | tuple):
            for n, each in enumerate(value):
                self.check_texts(each, f"{field}[{n}]")

    def weight(self) -> float:
        """Return the row's loss weight: 1 unless `fields` or the source say where it is."""
        if "weight" not in self.fields and not self.weighted:
            return 1.0
        same = self.fields.get("weight", "weight") == "weight"
        value = self.optional("weight") if same else self.value("weight")
        return 1.0 if value is None else self.checked_weight(value, "weight")

    def checked_weight(self, value, field: str) -> float:
        """Return `value` if it is a finite number of at least 0."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= LARGEST:
            fix = "write a plain number; 0 trains nothing, 1 is the usual weight"
            expected = "a finite number of at least 0"
            raise self.error(
                field, describe(value), expected=expected, fix=fix, reason="bad weight"
            )
        return float(value)

    def checked_number(self, value, field: str) -> float:
        """Return `value` if it is a finite number."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= LARGEST:
            fix = f"write a plain number or drop {field!r}"
            expected = "a finite number"
            raise self.error(
                field, describe(value), expected=expected, fix=fix, reason=f"bad {field}"
            )
        return float(value)

    def messages(self, value, field: str) -> list[dict]:
        """Return `value` if it is a list of messages with known roles and text."""
        return messages_lib.read(self, value, field)

    def answered(self, messages: list[dict], field: str) -> list[dict]:
        """Return messages if the assistant says something in each turn that is learned."""
        return messages_lib.answered(self, messages, field)

    def with_system(self, messages: list[dict]) -> tuple[list[dict], dict]:
        """Return messages after the row's `system`, if it has one, and {"tools": ...}, if any."""
        tools = messages_lib.tools(self, self.optional("tools"), "tools")
        system = self.optional("system")
        if system is not None and self.checked_text(system, "system", empty=True).strip():
            if messages[0]["role"] == "system":
                fix = "keep one of them"
                raise self.wrong(
                    "system", system, expected="none beside a system message", fix=fix,
                    reason="two system messages",
                )  # fmt: skip
            messages = [{"role": "system", "content": system}, *messages]
        return messages, {"tools": tools} if tools else {}
