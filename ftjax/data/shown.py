r"""What a chat template has left out of a conversation.

    left_out(messages, tools=None, render=render)     ->  [Missing(1, "reasoning"), ...]

Templates print texts trimmed, escaped for JSON, with line ends of their own, in an order of their
own; so spaces are not compared, and each text is looked for in a second rendering in which it is
followed by a mark of its own. A short text cannot be found by accident there: the "a" of a dropped
message is in every "assistant". Where a template does something else with a marked text, long
texts are looked for in the plain rendering.
"""

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import NamedTuple

# Noncharacters of Unicode, as those of `chat`: an opening one, 16 digits, a closing one.
FIRST, LAST = "\ufdd2", "\ufde3"
DIGITS = [chr(ord(FIRST) + 1 + n) for n in range(16)]
# A text of so many characters is in a rendering because somebody printed it.
LONG = 12
PARTS = ("reasoning", "tool_calls", "tools", "name")
TOOLS = ("tool", "function", "ipython")  # roles of what a call gave back
# Keys of a message that are looked for above, or that are no text of it.
KNOWN = {"role", "content", "reasoning_content", "tool_calls", "name", "weight", "tool_call_id"}


class Missing(NamedTuple):
    """A part of a message (None: of the row) that is not in the text: a role or one of PARTS."""

    message: int | None
    part: str


def left_out(
    messages: Sequence[dict], *, tools: Sequence[dict] | None, text: str, render: Callable
) -> list[Missing]:
    """Return what of `messages` and `tools` is not in their rendering `text`.

    render: (messages, tools) -> text, or None where the template refuses them.
    """
    marked = [_marked(each, n) for n, each in enumerate(messages)]
    plain, probe = squeeze(text), squeeze(render(marked, tools) or "")
    missing, called = [], {each["function"]["name"] for m in messages for each in _calls(m)}
    for n, message in enumerate(messages):
        for part, said in _texts(message, called):
            if not _is_shown(said, _mark(n, part), plain=plain, probe=probe, messages=messages):
                named = part if part == "name" else _named(message, said, _mark(n, part), probe)
                missing.append(Missing(n, named))
        if not all(_is_called(each["function"], n, plain, probe) for each in _calls(message)):
            missing.append(Missing(n, "tool_calls"))
    if tools and not _are_listed(tools, messages, plain, render):
        missing.append(Missing(None, "tools"))
    return missing


def unread(messages: Sequence[dict], render: Callable) -> set[str]:
    """Return the keys of messages that change nothing of their rendering.

    render: messages -> text, or None where the template refuses them.
    """
    keys = {key for each in messages for key in each.keys() - KNOWN}
    text = render(messages) if keys else None
    without = lambda key: [{k: v for k, v in each.items() if k != key} for each in messages]
    return {key for key in keys if render(without(key)) == text}


def squeeze(text: str) -> str:
    """Return text without its spaces and line ends."""
    return "".join(text.split())


def mark(messages: Sequence[dict]) -> list[dict]:
    """Return messages with a mark behind the content of the last; `cut` ends a text there."""
    return [*messages[:-1], messages[-1] | {"content": messages[-1]["content"] + FIRST}]


def _mark(n: int, part: str) -> str:
    number = n * 4 + ("content", "reasoning", "tool_calls", "name").index(part)
    return FIRST + "".join(DIGITS[int(digit, 16)] for digit in f"{number:x}") + LAST


def _calls(message: dict) -> Sequence[dict]:
    return message.get("tool_calls") or ()


def _texts(message: dict, called: Container[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the texts of a message; called: functions whose name the call shows already."""
    yield "content", message["content"]
    yield "reasoning", message.get("reasoning_content", "")
    if "name" in message and not (message["role"] in TOOLS and message["name"] in called):
        yield "name", message["name"]


def _marked(message: dict, n: int) -> dict:
    found = dict(message)
    if message["content"]:
        found["content"] = message["content"] + _mark(n, "content")
    if message.get("reasoning_content"):
        found["reasoning_content"] = message["reasoning_content"] + _mark(n, "reasoning")
    if "name" in message:
        found["name"] = message["name"] + _mark(n, "name")
    if _calls(message):
        mark = _mark(n, "tool_calls")
        named = lambda f: f | {"name": f["name"] + mark}
        found["tool_calls"] = [c | {"function": named(c["function"])} for c in found["tool_calls"]]
    return found


def _spellings(text: str) -> set[str]:
    """Return the ways in which a template may print a text, without spaces."""
    escaped = (json.dumps(text, ensure_ascii=each)[1:-1] for each in (True, False))
    found = {squeeze(text), *(squeeze(each) for each in escaped)}
    # In JSON a line end is no space any more.
    found |= {squeeze(json.dumps(text.strip(), ensure_ascii=each)[1:-1]) for each in (True, False)}
    return found


def _is_shown(said: str, mark: str, *, plain: str, probe: str, messages) -> bool:
    if not said.strip() or any(each + mark in probe for each in _spellings(said)):
        return True
    same = sum(said == other for each in messages for _, other in _texts(each))
    found = max(plain.count(each) for each in _spellings(said))
    return len(squeeze(said)) >= LONG and found >= same


def _named(message: dict, said: str, mark: str, probe: str) -> str:
    """Return which part is missing: of a content with reasoning in it, perhaps that alone."""
    if said is not message["content"]:
        return "reasoning"
    *thought, answer = said.split("</think>")
    if thought and any(each + mark in probe for each in _spellings(answer)):
        return "reasoning"
    return message["role"]


def _is_called(function: dict, n: int, plain: str, probe: str) -> bool:
    name, arguments = function["name"], function["arguments"]
    if squeeze(name) + _mark(n, "tool_calls") not in probe:
        return False
    if not isinstance(arguments, Mapping):
        return squeeze(arguments) in plain
    ways = (dict(ensure_ascii=a, sort_keys=s) for a in (True, False) for s in (True, False))
    if any(squeeze(json.dumps(arguments, **way)) in plain for way in ways):
        return True
    return all(_has_leaf(leaf, plain) for leaf in _leaves(arguments))


def _leaves(value) -> Iterator:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield key
            yield from _leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _has_leaf(leaf, plain: str) -> bool:
    if isinstance(leaf, str):
        return any(each in plain for each in _spellings(leaf))
    return squeeze(str(leaf)) in plain or json.dumps(leaf) in plain


def _are_listed(tools, messages, plain: str, render: Callable) -> bool:
    """Return whether the name of every tool is in the text because the tools were given."""
    without = squeeze(render(messages, None) or "")
    names = [squeeze(each.get("function", each)["name"]) for each in tools]
    return all(plain.count(name) > without.count(name) for name in names)
