"""Prompts in, text out: from files and from a person at a terminal.

`Dialog` holds what has been said; `converse` is the loop of the chat. Neither knows of flags, and
`converse` reads and writes through what it is given.
"""

import codecs
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ftjax.data import chat, foreign, locate, stops
from ftjax.data.row import Row
from ftjax.data.sources import csv, jsonl
from ftjax.sampling import text

FLAG = "--prompts_file"
HELP = "/reset forgets what was said, /quit ends"


class PromptRequest(NamedTuple):
    """A prompt (text, or a list of messages), the adapter that is to answer, where it was given."""

    prompt: Any
    adapter: str | None = None
    where: str = "--prompt"


def read_prompts(path: pathlib.Path) -> list[PromptRequest]:
    """Read prompts: `prompt` (or `messages`) of each line of .jsonl or .csv, or lines of a text.

    The `adapter` of a line of .jsonl is the name of one; `tools` go with messages.

    Raises:
      ValueError: a file or a line that cannot be read or has no prompt, named.
    """
    # By name and not by content: a line of a text may well be JSON.
    if str(path).endswith(csv.SUFFIXES):
        found = csv.make(path=locate.find(path, csv.SUFFIXES, where=FLAG))
    elif str(path).endswith(jsonl.SUFFIXES):
        found = jsonl.read(path, where=FLAG)
    else:
        return _text_prompts(path)
    if found.bad:
        raise ValueError(found.bad[0].message)
    return [_asked(found[i], found.where(i)) for i in range(len(found))]


def _text_prompts(path: pathlib.Path) -> list[PromptRequest]:
    lines = enumerate(_text_lines(path), start=1)
    found = [PromptRequest(line, where=f"{path}:{n}") for n, line in lines if line.strip()]
    if not found:
        raise ValueError(f"{path}: got no prompt; expected one a line; take it out of {FLAG}")
    return found


def _text_lines(path: pathlib.Path) -> list[str]:
    [file, *_] = locate.find(path, (".txt",), where=FLAG)
    content = pathlib.Path(file).read_bytes()
    if found := foreign.of_head(content):
        what, mend = found
        raise ValueError(f"{file}: got {what}; expected text in UTF-8; {mend.format(file)}")
    try:
        # Editors on Windows begin a file with a mark, which is no part of a prompt.
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}: got byte 0x{content[error.start]:02x} at {error.start}; expected UTF-8; "
            f"{foreign.to_utf8(content[error.start :][:64]).format(file)}"
        ) from error


def _asked(raw: dict, where: str) -> PromptRequest:
    adapter = raw.get("adapter") or None  # an empty cell of a table names none
    if not isinstance(adapter, str | None):
        raise ValueError(f"{where}: got adapter={adapter!r}; expected a name, or none")
    row = Row(raw, where, fields={}, kind="chat" if raw.get("prompt") is None else "prompt")
    if isinstance(raw.get("prompt"), str):
        # An empty prompt is one: a text from its beginning.
        return PromptRequest(row.checked_text(raw["prompt"], "prompt", empty=True), adapter, where)
    field = "messages" if raw.get("prompt") is None else "prompt"
    if row.raw.get(field) is None:
        told = f"got {str(raw)[:80]!r}; expected an object with prompt or messages"
        raise ValueError(f"{where}: {told}")
    if not isinstance(row.raw[field], list | str):
        fix, expected = "write one of them", "text or a list of messages"
        raise row.wrong(field, row.raw[field], expected=expected, fix=fix, reason="wrong type")
    messages, beside = row.with_system(row.messages(row.raw[field], field))
    return PromptRequest({"messages": messages, **beside} if beside else messages, adapter, where)


def encoded(
    asked: Sequence[PromptRequest], encode: Callable, tokenizer, *, most: int, new: int
) -> list[list[int]]:
    """Encode all prompts before any is answered; most: tokens of a prompt and its `new` ones.

    Raises:
      ValueError: naming the place of a prompt that cannot be encoded, or is too long.
    """
    found = []
    for each in asked:
        try:
            ids = text.prompt_ids(each.prompt, tokenizer, encode=encode)
        except ValueError as error:
            raise ValueError(f"{each.where}: {error}") from error
        if len(ids) + new > most:
            raise ValueError(
                f"{each.where}: got a prompt of {len(ids)} tokens and --max_new_tokens={new}; "
                f"expected at most {most} together, the model's positions less virtual tokens; "
                "shorten one of them"
            )
        found.append(ids)
    return found


def conversation(prompt) -> tuple[list[dict], list | None]:
    """Return the checked messages and the tools of a prompt."""
    raw = prompt if isinstance(prompt, Mapping) else {"messages": prompt}
    row = Row(raw, "prompt", fields={}, kind="chat")
    messages, beside = row.with_system(row.messages(row.value("messages"), "messages"))
    return messages, beside.get("tools")


def make_encode(tokenizer, *, template: chat.Template | None, wrap: bool = False) -> Callable:
    """Make `encode(prompt) -> ids` for strings, lists of messages, {"messages", "tools"}.

    A list that ends with the assistant is continued. template: of messages. wrap: a string is what
    a user says, and goes through the template too.
    """

    def encode(prompt) -> list[int]:
        if isinstance(prompt, str) and not wrap:
            return tokenizer.encode(prompt)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if template is None:
            raise ValueError(
                "prompt: got messages, and the tokenizer has no chat template; expected text; "
                "pass --chat_template"
            )
        messages, tools = conversation(messages)
        rendered = template.opening(messages, tools=tools)
        # The template prints bos itself where the model has one.
        return tokenizer.encode(rendered, add_special_tokens=False)

    return encode


def find_template(tokenizer, choice: str | None, **options) -> chat.Template | None:
    """Return the chat template that `choice` names, or the tokenizer's own, or None.

    options: those of `chat.find`.
    """
    # No template is no error yet: a run of plain texts needs none.
    if choice is None and tokenizer.chat_template is None:
        return None
    return chat.find(choice, tokenizer, **options)


def template_of(tokenizer, data: Mapping) -> chat.Template | None:
    """Return the chat template of a data section, with its options."""
    named = {"template_args": "arguments", "allow_dropped": "allow_dropped", "date": "date"}
    options = {name: data[key] for key, name in named.items() if key in data}
    return find_template(tokenizer, data.get("chat_template"), **options)


def stop_ids(tokenizer, data: Mapping | None = None) -> tuple[int, ...]:
    """List the ids that end an answer: of the tokenizer, the model's files and the template."""
    return stops.ids(tokenizer, template_of(tokenizer, data or {}))


class Form(NamedTuple):
    """How prompts of a run are written.

    template: of messages; None without one. wraps: whether a plain text is what a user says, and
    goes through the template too. stop_ids: the tokens that end an answer.
    """

    template: chat.Template | None
    wraps: bool
    stop_ids: tuple[int, ...]


def form_of(tokenizer, data: Mapping, *, chat_template: str | None = None) -> Form:
    """Return the form of a run's prompts, from its data section; `chat_template` replaces its own.

    A model trained on messages expects what a user says inside its template.
    """
    shown = {**data, "chat_template": chat_template or data.get("chat_template")}
    if chat_template:
        shown.pop("template_args", None)  # those of the run's own template
    # Who names a template wants it used, whatever the run was trained on.
    wraps = bool(chat_template) or data.get("kind") == "chat"
    return Form(template_of(tokenizer, shown), wraps, stop_ids(tokenizer, shown))


def chat_note(form: Form, data: Mapping) -> str:
    """Return a line for who is about to chat with a run that was not trained on chats, or ""."""
    if form.wraps or form.template is None or data.get("kind") != "prompt":
        return ""
    return (
        "This run learned from data.kind='prompt'. Unless its prompts were messages, it has not "
        "seen the chat template that the chat is written in: ask it with --prompt, or train with "
        "data.kind='chat'."
    )


def encode_of(tokenizer, form: Form) -> Callable:
    """Make the encoder of prompts in a form, see `make_encode`."""
    return make_encode(tokenizer, template=form.template, wrap=form.wraps)


@dataclasses.dataclass
class Dialog:
    """What has been said, as messages, or as plain text when there is no chat template."""

    encode: Callable
    has_template: bool
    max_tokens: int  # of a prompt
    system: str = ""
    turns: list[dict] = dataclasses.field(default_factory=list)

    def prompt(self):
        """Return the prompt of the next answer; the oldest turns go when it grows too long."""
        # The newest turn stays, however long: the sampler says what is too long about it.
        while len(self.turns) > 1 and len(self.encode(self._whole())) > self.max_tokens:
            # A question goes with its answer: many templates refuse two turns of one role.
            del self.turns[:2]
        return self._whole()

    def _whole(self):
        if not self.has_template:
            return self.system + "".join(turn["content"] for turn in self.turns)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.turns

    def add(self, role: str, content: str) -> None:
        """Add a turn."""
        self.turns.append({"role": role, "content": content})

    def reset(self) -> None:
        """Forget all turns."""
        self.turns.clear()


def converse(dialog: Dialog, answer: Callable, *, read: Callable, write: Callable) -> None:
    """Read a line, stream the answer, until the end of the input or /quit.

    answer: (prompt, number of the turn) -> pieces of text. read: () -> a line, EOFError at the end.
    """
    number = 0
    while (line := _next_line(read)) is not None:
        if line == "/quit":
            return
        if line == "/reset":
            dialog.reset()
            write("(forgotten)\n")
        # Else a mistyped command would be put to the model as a question.
        elif line.startswith("/"):
            write(f"got {line!r}; expected text, or a command: {HELP}\n")
        elif line:
            dialog.add("user", line)
            dialog.add("assistant", _stream(answer(dialog.prompt(), number), write))
            number += 1


def _next_line(read: Callable) -> str | None:
    try:
        return read().strip()
    except (EOFError, KeyboardInterrupt):
        # Between answers control-C leaves; within one it ends the answer alone.
        return None


def _stream(pieces: Iterator[str], write: Callable) -> str:
    """Write pieces as they come; an interrupt ends the answer and keeps what there is."""
    said = []
    try:
        for piece in pieces:
            write(piece)
            said.append(piece)
    except KeyboardInterrupt:
        write(" (interrupted)")
    write("\n")
    return "".join(said)


def write_results(path: pathlib.Path, prompts: Sequence, texts: Sequence[str]) -> None:
    """Write JSON lines of {"prompt", "text"}."""
    lines = [
        json.dumps({"prompt": prompt, "text": new}, ensure_ascii=False)
        for prompt, new in zip(prompts, texts, strict=True)
    ]
    pathlib.Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
