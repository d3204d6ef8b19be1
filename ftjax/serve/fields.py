r"""The fields of a request: what each may be, and the error that names the one that is not.

    read({"model": "mine", "prompt": "2 + 2 =", "stop": "\n"}, COMPLETION)   -> every field

null stands for a field that is left out. A field that this server does not know, or knows and does
not honour, is refused: an answer that ignores what was asked for is worse than none.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ftjax.core import config as conf
from ftjax.sampling.slots import ALTERNATIVES

SEEDS = 2**31  # what fits the 32 bits of a key's seed with the sign that JAX gives it
COOLEST = 0.01  # below it logits overflow when they are divided, and it is greedy anyway
MAX_STOPS = 16
MAX_CHOICES = 128


class Refusal(Exception):
    """A request that is not answered: the HTTP status and the error in OpenAI's shape."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None,
        code: str | None = None, kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ):  # fmt: skip
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = {
            "error": {"message": message, "type": kind, "param": param, "code": code},
        }


class Field(NamedTuple):
    """What a field may be: `read(value)` returns it, or None where it is wrong."""

    expected: str
    read: Callable[[Any], Any]
    default: Any = None
    required: bool = False


def _is_number(x) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _is_integer(x) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _integer(low: int, high: int | None = None, default: int | None = None) -> Field:
    expected = f"an integer of {low} to {high}" if high is not None else f"an integer from {low} on"
    inside = lambda x: _is_integer(x) and low <= x and (high is None or x <= high)
    return Field(expected, lambda x: x if inside(x) else None, default)


def _only(expected: str, *values) -> Field:
    """A field that is accepted where it changes nothing."""
    same = lambda x: any(
        x == each and isinstance(x, bool) == isinstance(each, bool) for each in values
    )
    return Field(f"{expected}; this server has no other", lambda x: x if same(x) else None)


def _stops(x):
    found = [x] if isinstance(x, str) else x
    fits = isinstance(found, list) and len(found) <= MAX_STOPS
    return tuple(found) if fits and all(isinstance(s, str) and s for s in found) else None


def _prompts(x):
    """Return a list of prompts, each a text or token ids."""
    is_ids = lambda p: isinstance(p, list) and bool(p) and all(map(_is_integer, p))
    found = [x] if isinstance(x, str) or is_ids(x) else x
    fits = isinstance(found, list) and 0 < len(found) <= MAX_CHOICES
    return found if fits and all(isinstance(p, str) or is_ids(p) for p in found) else None


def _usage_option(x):
    fits = isinstance(x, dict) and x.keys() <= {"include_usage"}
    return x if fits and isinstance(x.get("include_usage", False), bool) else None


_FLAG = Field("true or false", lambda x: x if isinstance(x, bool) else None, False)
_LABEL = Field("a text", lambda x: x if isinstance(x, str) else None)
_ANY = Field("anything", lambda x: x)
_ZERO = _only("0", 0)
_TEMPERATURE = Field(
    f"0, which is greedy, or a number of {COOLEST} to 2",
    lambda x: x if _is_number(x) and (x == 0 or COOLEST <= x <= 2) else None, 1.0,
)  # fmt: skip

COMMON = {
    "model": _LABEL._replace(required=True),
    "stream": _FLAG,
    "stream_options": Field('an object such as {"include_usage": true}', _usage_option),
    "max_tokens": _integer(1),
    "temperature": _TEMPERATURE,
    "top_p": Field(
        "a number above 0, at most 1", lambda x: x if _is_number(x) and 0 < x <= 1 else None, 1.0
    ),
    "n": _integer(1, MAX_CHOICES, 1),
    "stop": Field(f"a text that is not empty, or a list of at most {MAX_STOPS} such", _stops, ()),
    "seed": _integer(0, SEEDS - 1),
    "presence_penalty": _ZERO,
    "frequency_penalty": _ZERO,
    "logit_bias": _only("{}", {}),
    # Names that a caller gives for its own records; they change no answer.
    "user": _LABEL,
    "metadata": _ANY,
    "store": _only("false", False),
}
COMPLETION = COMMON | {
    "prompt": Field(
        f"a text, token ids, or a list of at most {MAX_CHOICES} of either", _prompts, required=True
    ),
    "max_tokens": _integer(1)._replace(default=16),
    "logprobs": _integer(0, ALTERNATIVES),
    "echo": _only("false", False),
    "suffix": _only("null"),
    "best_of": _only("1", 1),
}
CHAT = COMMON | {
    "messages": Field(
        "a list of messages that is not empty",
        lambda x: x if isinstance(x, list) and x else None,
        required=True,
    ),
    "max_completion_tokens": _integer(1),
    "logprobs": _FLAG,
    "top_logprobs": _integer(0, ALTERNATIVES, 0),
    "response_format": _only('{"type": "text"}', {"type": "text"}),
    "tools": _only("[]", []),
    "tool_choice": _only('"none" or "auto"', "none", "auto"),
}


def parse(body: bytes) -> dict:
    """Read the JSON object of a body.

    Raises:
      Refusal: it is none.
    """
    try:
        found = json.loads(body, parse_constant=_no_constant)
        if b"\\ud" in body.lower():  # half of a surrogate pair is no text, in answers neither
            json.dumps(found, ensure_ascii=False).encode()
    # Deep nesting is a RecursionError; bytes that are no UTF-8 and long integers are ValueErrors.
    except (ValueError, RecursionError) as error:
        why = "brackets that are nested too deep" if isinstance(error, RecursionError) else error
        raise Refusal(f"body: got no JSON: {why}; expected a JSON object") from None
    if not isinstance(found, dict):
        raise Refusal(f"body: got {_shown(found)}; expected a JSON object")
    return found


def _no_constant(name: str):
    raise ValueError(f"{name} is no JSON")


def read(raw: Mapping[str, Any], known: Mapping[str, Field]) -> dict[str, Any]:
    """Return the value of every known field.

    Raises:
      Refusal: a field is wrong, missing or not known; it names it.
    """
    for name in raw:
        if name not in known:
            listed = conf.listed(sorted(known))
            raise Refusal(
                f"{name}: got an unknown field; {conf.nearest(name, list(known))}expected one of "
                f"{listed}; leave it out", param=name, code="unknown_field",
            )  # fmt: skip
    return {name: _value(name, raw.get(name), field) for name, field in known.items()}


def _value(name: str, value, field: Field):
    if value is None:
        if field.required:
            raise Refusal(f"{name}: got none; expected {field.expected}", param=name)
        return field.default
    found = field.read(value)
    if found is None:
        raise Refusal(f"{name}: got {_shown(value)}; expected {field.expected}", param=name)
    return found


def _shown(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
