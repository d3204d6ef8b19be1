r"""Messages of a conversation, brought to one spelling that chat templates agree on.

    {"role", "content": text}                    and, where a message has them:
    "reasoning_content": text                    also spelled "thinking" or "reasoning"
    "tool_calls": [{"type": "function", "function": {"name", "arguments": object}}]
    "name": text                                 of who speaks, or of the tool
    "weight": number                             also "train", "training" or "loss_mask"

Null is the same as absent. Content given as a list of text parts is joined; arguments given as JSON
text are parsed. Whatever else a message has (`tool_call_id`) goes to the template as it is.
"""

import json
from collections.abc import Mapping

from ftjax.core.config import nearest

ROLES = ("system", "developer", "user", "assistant", "tool")
# What `data.roles` may map to: some templates print these two in a form of their own.
MAPPED = (*ROLES, "function", "ipython")
# Those that ask; what the assistant has said before may be shortened by a template.
ASKING = tuple(each for each in MAPPED if each != "assistant")
# Names that other tools give to the same roles, for the advice in an error.
ALIASES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
ALIASES |= {"function": "tool", "ipython": "tool", "observation": "tool"}
REASONING = ("reasoning_content", "thinking", "reasoning")
MASKS = ("weight", "train", "training", "loss_mask", "loss")
# Keys that other tools read as something that is not done here.
REFUSED = {
    "train_detail": "a mask inside of a message: split the message, or drop the key",
    "images": "only text is trained: drop the key or the row",
    "videos": "only text is trained: drop the key or the row",
    "audios": "only text is trained: drop the key or the row",
}


def read(row, value, field: str) -> list[dict]:
    """Return the messages in `value`, checked; raises the RowErrors of `row`."""
    value = from_json(value)
    if not isinstance(value, list) or not value:
        fix = 'write [{"role": "user", "content": "..."}, {"role": "assistant", ...}]'
        raise row.wrong(
            field, value, expected="a list of messages", fix=fix, reason="wrong type"
        )  # fmt: skip
    return [_message(row, each, f"{field}[{n}]") for n, each in enumerate(value)]


def answered(row, messages: list[dict], field: str) -> list[dict]:
    """Return messages if the assistant says something in each of its turns that is learned."""
    turns = [(n, each) for n, each in enumerate(messages) if each["role"] == "assistant"]
    if not turns:
        found = f"roles {', '.join(each['role'] for each in messages)}"
        fix = "nothing of it would be trained: add the answer or delete the row"
        raise row.error(
            field, found, expected="an assistant turn", fix=fix, reason="no assistant turn"
        )
    silent = [n for n, each in turns if not _says(each)]
    if len(silent) == len(turns):
        fix = "nothing of it would be trained: fill it in or delete the row"
        raise row.error(
            field, "empty assistant turns", expected="text", fix=fix, reason="empty response"
        )
    for n in silent:
        if messages[n].get("weight", 1.0):
            fix = 'the model would learn to say nothing: fill it in, or give it "weight": 0'
            raise row.error(
                f"{field}[{n}]", "an empty assistant turn", expected="text", fix=fix,
                reason="empty turn",
            )  # fmt: skip
    return messages


def tools(row, value, field: str) -> list[dict] | None:
    """Return the descriptions of tools in `value` (also as JSON text); None when there are none."""
    value = without_nulls(from_json(value))
    if value in (None, "", [], {}):
        return None
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        fix = 'write [{"type": "function", "function": {"name": ..., "parameters": {...}}}]'
        raise row.wrong(field, value, expected="a list of objects", fix=fix, reason="bad tools")
    for n, each in enumerate(value):
        function = each.get("function", each)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            fix = "give every tool a name"
            raise row.wrong(
                f"{field}[{n}]", each, expected="an object with a name", fix=fix, reason="bad tools"
            )  # fmt: skip
    row.check_texts(value, field)
    # A bare description is wrapped as templates read it.
    bare = lambda each: "function" not in each and "type" not in each
    return [{"type": "function", "function": each} if bare(each) else each for each in value]


def from_json(value):
    """Return what a text spells in JSON when that is a list or an object, else the value."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def without_nulls(value):
    """Return the value without the null entries that tables put where a row has no key."""
    if isinstance(value, Mapping):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def _says(message: dict) -> bool:
    if message.get("tool_calls"):
        return True
    return any(str(message.get(key, "")).strip() for key in ("content", "reasoning_content"))


def _message(row, message, field: str) -> dict:
    if not isinstance(message, Mapping) or message.get("role") is None:
        fix = "name the two keys of every message 'role' and 'content'"
        expected = 'an object {"role": ..., "content": ...}'
        raise row.wrong(field, message, expected=expected, fix=fix, reason="bad message")
    given = {key: value for key, value in message.items() if value is not None}
    _refuse(row, given, field)
    role = _role(row, given.pop("role"), f"{field}.role")
    found = {"role": role}
    reasoning = _reasoning(row, given, field)
    calls = _calls(row, given, role, field)
    found["content"] = _content(row, given, field, empty=bool(reasoning or calls))
    found |= {"reasoning_content": reasoning} if reasoning else {}
    found |= {"tool_calls": calls} if calls else {}
    name = row.checked_text(given.pop("name", ""), f"{field}.name", empty=True)
    found |= {"name": name} if name.strip() else {}
    weight = _weight(row, given, role, field)
    row.check_texts(given, field)
    return found | ({} if weight is None else {"weight": weight}) | without_nulls(given)


def _refuse(row, given: dict, field: str) -> None:
    for key, fix in REFUSED.items():
        if given.get(key):
            raise row.wrong(
                f"{field}.{key}", given[key], expected="no such key", fix=fix, reason=f"has {key}"
            )


def _role(row, role, field: str) -> str:
    mapped = row.roles.get(role, role) if isinstance(role, str) else role
    if isinstance(mapped, str) and mapped in (MAPPED if role in row.roles else ROLES):
        return mapped
    like = ALIASES.get(role) if isinstance(role, str) else None
    hint = f"did you mean {like!r}? " if like else nearest(str(role), ROLES)
    mapping = {str(role)[:60]: like or "..."}
    fix = f"{hint}rename the role in the file, or map it with data.roles={mapping}"
    expected = f"one of {', '.join(ROLES)}"
    raise row.wrong(field, role, expected=expected, fix=fix, reason="unknown role")


def _content(row, given: dict, field: str, *, empty: bool) -> str:
    content = given.pop("content", None)
    if isinstance(content, list):
        return "".join(_part(row, each, f"{field}.content[{n}]") for n, each in enumerate(content))
    if content is None and empty:
        return ""
    return row.checked_text(content, f"{field}.content", empty=True)


def _part(row, part, field: str) -> str:
    if isinstance(part, str):
        return row.checked_text(part, field, empty=True)
    text = part.get("text") if isinstance(part, Mapping) else None
    name = part.get("type", "text") if isinstance(part, Mapping) else None
    if name not in ("text", "input_text", "output_text") or not isinstance(text, str):
        fix = "only text is trained: leave other parts out, or the row"
        expected = 'a part {"type": "text", "text": ...}'
        raise row.wrong(field, part, expected=expected, fix=fix, reason="part that is no text")
    return row.checked_text(text, f"{field}.text", empty=True)


def _reasoning(row, given: dict, field: str) -> str:
    found = {key: given.pop(key) for key in REASONING if key in given}
    texts = {row.checked_text(text, f"{field}.{key}", empty=True) for key, text in found.items()}
    texts.discard("")
    if len(texts) > 1:
        fix = "they are names of one thing: keep one"
        raise row.error(
            field, f"different {' and '.join(found)}", expected="one of them", fix=fix,
            reason="two kinds of reasoning",
        )  # fmt: skip
    return texts.pop() if texts else ""


def _calls(row, given: dict, role: str, field: str) -> list[dict]:
    calls = from_json(given.pop("tool_calls", None))
    single = from_json(given.pop("function_call", None))
    if single and calls:
        fix = "they are names of one thing: keep tool_calls"
        raise row.error(
            field, "tool_calls and function_call", expected="one of them", fix=fix,
            reason="bad tool call",
        )  # fmt: skip
    calls = [single] if single else calls
    if not calls:
        return []
    if not isinstance(calls, list) or role != "assistant":
        fix = "write a list of calls in an assistant message"
        raise row.wrong(
            f"{field}.tool_calls", calls, expected="calls of the assistant", fix=fix,
            reason="bad tool call",
        )  # fmt: skip
    return [call(row, each, f"{field}.tool_calls[{n}]") for n, each in enumerate(calls)]


def call(row, value, field: str) -> dict:
    """Return one call as {"type": "function", "function": {"name", "arguments": object}}."""
    advice = dict(fix='write {"function": {"name": "...", "arguments": {...}}}')
    advice |= dict(reason="bad tool call")
    inner = value.get("function", value) if isinstance(value, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str) or not name:
        raise row.wrong(field, value, expected="an object with a function's name", **advice)
    given = inner.get("arguments", inner.get("parameters"))
    # In text a null was written on purpose; in an object it may be a table's filling.
    arguments = from_json(given) if isinstance(given, str) else without_nulls(given)
    arguments = {} if arguments is None or arguments == "" else arguments
    if not isinstance(arguments, dict):
        where = f"{field}.function.arguments"
        raise row.wrong(where, given, expected="an object, or JSON text of one", **advice)
    row.check_texts({"name": name, "arguments": arguments}, field)
    kept = {} if inner is value else {k: v for k, v in value.items() if v is not None}
    return kept | {"type": "function", "function": {"name": name, "arguments": arguments}}


def _weight(row, given: dict, role: str, field: str) -> float | None:
    """Return the product of the keys that mean a mask, None without any."""
    masks = {key: given.pop(key) for key in MASKS if key in given}
    if not masks:
        return None
    product = 1.0
    for key, value in masks.items():
        # A flag is a weight of 0 or 1; `weight` itself is a number and never a flag.
        value = int(value) if isinstance(value, bool) and key != "weight" else value
        product *= row.checked_weight(value, f"{field}.{key}")
        if product and role != "assistant":
            fix = "only assistant turns are trained: drop it"
            raise row.error(
                field, f"{role} {key}", expected=f"no {key} on this role", fix=fix,
                reason="bad weight",
            )  # fmt: skip
    return product
