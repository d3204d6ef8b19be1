"""Prompts in, text out: from files and from a person at a terminal.

`Dialog` holds what has been said; `converse` is the loop of the chat. Neither knows of flags, and
`converse` reads and writes through what it is given.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ftjax.data import chat
from ftjax.sampling import text

# Ends of turns in common chat templates; those that the vocabulary lacks are left out.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
HELP = "/reset forgets what was said, /quit ends"


class Asked(NamedTuple):
    """A prompt (text, or a list of messages), and the name of the adapter that is to answer."""

    prompt: Any
    adapter: str | None = None


def read_prompts(path: pathlib.Path) -> list[Asked]:
    """Read prompts: the `prompt` (or `messages`) of each line of .jsonl, or the lines of a text.

    The `adapter` of a line of .jsonl is the name of one.

    Raises:
      ValueError: a line has no prompt.
    """
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    if pathlib.Path(path).suffix != ".jsonl":
        return [Asked(line) for line in lines if line.strip()]
    return [_asked(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]


def _asked(line: str, where: str) -> Asked:
    row = json.loads(line)
    if not isinstance(row, dict) or not ({"prompt", "messages"} & row.keys()):
        raise ValueError(f"{where}: got {line[:80]!r}; expected an object with prompt or messages")
    if not isinstance(row.get("adapter"), str | None):
        raise ValueError(f"{where}: got adapter={row['adapter']!r}; expected a name, or none")
    return Asked(row["prompt"] if "prompt" in row else row["messages"], row.get("adapter"))


def make_encode(tokenizer, *, template: chat.Template | None, wrap: bool = False) -> Callable:
    """Make `encode(prompt) -> ids` for strings and for lists of messages.

    template: of messages. wrap: a string is what a user says, and goes through the template too.
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
        rendered = template.render(messages, add_generation_prompt=True)
        # The template prints bos itself where the model has one.
        return tokenizer.encode(rendered, add_special_tokens=False)

    return encode


def find_template(tokenizer, choice: str | None, *, date: str = "") -> chat.Template | None:
    """Return the chat template that `choice` names, or the tokenizer's own, or None.

    date: what it prints as today; see `chat.Template`.
    """
    if choice is None and tokenizer.chat_template is None:
        return None
    return chat.find(choice, tokenizer, date=date)


def stop_ids(tokenizer) -> tuple[int, ...]:
    """List the ids that end an answer: eos and the known ends of turns."""
    return text.stops(tokenizer, TURN_ENDS)


@dataclasses.dataclass
class Dialog:
    """What has been said, as messages, or as plain text when there is no chat template."""

    encode: Callable
    has_template: bool
    most: int  # tokens that a prompt may have
    system: str = ""
    turns: list[dict] = dataclasses.field(default_factory=list)

    def prompt(self):
        """Return the prompt of the next answer; the oldest turns go when it grows too long."""
        while len(self.turns) > 1 and len(self.encode(self._whole())) > self.most:
            del self.turns[:2]
        return self._whole()

    def _whole(self):
        if not self.has_template:
            return self.system + "".join(turn["content"] for turn in self.turns)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.turns

    def say(self, role: str, content: str) -> None:
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
        elif line.startswith("/"):
            write(f"got {line!r}; expected text, or a command: {HELP}\n")
        elif line:
            dialog.say("user", line)
            dialog.say("assistant", _stream(answer(dialog.prompt(), number), write))
            number += 1


def _next_line(read: Callable) -> str | None:
    try:
        return read().strip()
    except (EOFError, KeyboardInterrupt):
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
