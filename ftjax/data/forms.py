r"""Row forms of other tools, brought to the fields that `rows` checks.

    messages    {"messages": [{"role", "content"}, ...]}    also under "conversations"
    sharegpt    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", ...}]}
    alpaca      {"instruction", "output", optional "input", "system", "history"}
    completion  {"prompt", "completion"}                    text or messages
    prompt      {"prompt", "response"}
    text        {"text"}

In the kind "chat" an alpaca row or a prompt with its answer is a conversation of two turns; in the
kind "prompt" the alpaca prompt is the instruction, the input if there is one, and a line end.
"system" beside a conversation is its first message; "tools" goes with it.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence

from ftjax.core import config as conf
from ftjax.data import messages as messages_lib

# form -> the fields that a row of it must have.
FORMS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt": ("prompt", "response"),
    "completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}
FROM = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "system": "system",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
CALL = "function_call"
# What others call a prompt and its answer. They mean more than that too: for advice alone.
PROMPTS = ("prompt", "question", "query", "instruction", "problem", "input", "user", "q")
ANSWERS = ("response", "answer", "output", "completion", "solution", "target", "reply", "a")
# Columns that other tools read as a mask or as more than text.
REFUSED = {
    "loss_mask": "put train, loss_mask or weight on the messages",
    "completion_mask": "put train, loss_mask or weight on the messages",
    "assistant_masks": "put train, loss_mask or weight on the messages",
    "chat_template_kwargs": "set data.template_args, for all rows alike",
    "images": "only text is trained: drop the column",
    "videos": "only text is trained: drop the column",
    "audios": "only text is trained: drop the column",
}


def recognise(raw: Mapping, legal: Iterable[str]) -> str | None:
    """Return the first of the legal forms that fits a row, None when none does."""
    turns = raw.get("messages", raw.get("conversations"))
    for form in legal:
        if form in ("messages", "sharegpt") and turns is not None:
            return "sharegpt" if _from_value(turns) else "messages"
        if all(raw.get(field) is not None for field in FORMS[form]):
            return form
    return None


def likely_pair(raw: Mapping) -> dict[str, str]:
    """Return {"prompt": column, "response": column} of a row whose names say it, else {}."""
    is_text = lambda name: isinstance(raw.get(name), str)
    found = [next(filter(is_text, names), None) for names in (PROMPTS, ANSWERS)]
    return {} if None in found else dict(zip(FORMS["prompt"], found, strict=True))


def convert(row, form: str) -> None:
    """Bring the raw fields of `row` from `form` to those of its kind; notes what it has read."""
    for key, fix in row.kind.refused.items():
        if row.raw.get(key):
            raise row.wrong(key, row.raw[key], expected="no such column", fix=fix, reason=key)
    row.kind.forms[form](row)


def of_source(name: str, *, where: str) -> bool:
    """Return whether a source has an option `form` of its own, as those that make their rows do."""
    make = conf.attribute(name, "data.sources", where=where)
    known = inspect.signature(make).parameters if callable(make) else ()
    # A mixture has both, and hands them on.
    return "form" in known and "fields" not in known


def _from_value(turns) -> bool:
    turns = messages_lib.from_json(turns)
    first = turns[0] if isinstance(turns, list) and turns else None
    return isinstance(first, Mapping) and "from" in first and "role" not in first


def _turns(raw: Mapping) -> str:
    return "messages" if raw.get("messages") is not None else "conversations"


def _from_sharegpt(row) -> list:
    name = _turns(row.raw)
    turns = messages_lib.from_json(row.raw[name])
    if not isinstance(turns, list):
        return turns  # the check of messages says what is wrong
    return [_turn(row, each, f"{name}[{n}]") for n, each in enumerate(turns)]


def _turn(row, turn, field: str):
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    who, said = turn["from"], turn.get("value")
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    if who == CALL and CALL not in row.roles:
        calls = messages_lib.from_json(said)
        calls = calls if isinstance(calls, list) else [calls]
        calls = [messages_lib.call(row, each, f"{field}.value") for each in calls]
        return {"role": "assistant", "content": "", "tool_calls": calls} | rest
    role = FROM.get(who, who) if isinstance(who, str) and who not in row.roles else who
    return {"role": role, "content": said} | rest


def _unchanged(row) -> None:
    """Leave a row whose fields are those of its kind."""


def _messages(row) -> None:
    if "messages" not in row.raw:
        row.put("messages", row.raw["conversations"], used="conversations")


def _sharegpt(row) -> None:
    row.put("messages", _from_sharegpt(row), used=_turns(row.raw))


def _completion(row) -> None:
    row.put("response", row.raw["completion"], used="completion")


def _alpaca(row) -> None:
    prompt = _instruction(row)
    for key in ("system", "history", "tools"):
        if row.raw.get(key):
            fix = "set data.kind='chat', so that a chat template shows it"
            raise row.wrong(key, row.raw[key], expected="no such field", fix=fix, reason=key)
    _put_alpaca(row, prompt + "\n")


def _completion_as_chat(row) -> None:
    _completion(row)
    _as_chat(row)


def _alpaca_as_chat(row) -> None:
    _put_alpaca(row, _instruction(row))
    _as_chat(row, history=row.raw.get("history") or ())


def _instruction(row) -> str:
    text = lambda key: row.checked_text(row.raw.get(key) or "", key, empty=True)
    instruction = row.checked_text(row.raw["instruction"], "instruction")
    return "\n".join(part for part in (instruction, text("input")) if part.strip())


def _put_alpaca(row, prompt: str) -> None:
    raw = row.raw
    row.put("prompt", prompt, used="instruction")
    row.put("response", raw["output"], used="output")
    row.used |= {"input", "system", "history"} & raw.keys()


def _as_chat(row, history: Sequence = ()) -> None:
    """Make the conversation of a prompt and its answer, and of the pairs before them."""
    prompt, response = row.raw["prompt"], row.raw["response"]
    turns = []
    for n, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            fix = "write [[question, answer], ...]"
            raise row.wrong(
                f"history[{n}]", pair, expected="a pair", fix=fix, reason="bad history"
            )  # fmt: skip
        turns += [_said("user", pair[0]), _said("assistant", pair[1])]
    turns += (
        [_given(each) for each in prompt] if isinstance(prompt, list) else [_said("user", prompt)]
    )
    turns += response if isinstance(response, list) else [_said("assistant", response)]
    row.put("messages", turns, used="prompt")
    row.used |= {"response"} & row.raw.keys()


def _given(message):
    """Return a message of a prompt, of which nothing is learned."""
    spoken = isinstance(message, Mapping) and message.get("role") == "assistant"
    return {**message, "weight": 0} if spoken else message


def _said(role: str, content) -> dict:
    return {"role": role, "content": content}


# The forms that can become a kind, the likeliest first -> what converts a row.
TO_TEXT = {"text": _unchanged}
TO_PROMPT = {"prompt": _unchanged, "completion": _completion, "alpaca": _alpaca}
TO_CHAT = {
    "messages": _messages, "sharegpt": _sharegpt, "prompt": _as_chat,
    "completion": _completion_as_chat, "alpaca": _alpaca_as_chat,
}  # fmt: skip
