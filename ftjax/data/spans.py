r"""Which characters of a rendered conversation the assistant wrote.

    tagged(template, messages, tools, prompt)      by the `{% generation %}` blocks of the template
    by_prefix(template, messages, tools, prompt)   by rendering the messages up to each turn

Both return (text, spans) of the turns that are to be learned: those after the first `prompt`
messages whose weight is not 0. The prompt is the beginning of the whole, or it is an error.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Unicode noncharacters, reserved for use inside a program: they cannot occur in real text.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
MARKS = re.compile(f"[{OPEN}{CLOSE}]")


class Span(NamedTuple):
    """Characters [start, end) of the text, written in assistant turn `turn` (from 0)."""

    start: int
    end: int
    turn: int


class TemplateError(ValueError):
    """A template cannot render these messages, or cannot tell what the assistant wrote."""


def tagged(template, messages, tools, prompt: int) -> tuple[str, list[Span]]:
    """Return the text, and the spans that the template marks."""
    pieces = MARKS.split(template.marked(messages, tools))
    found: list[list[int]] = []
    at = 0
    for n, piece in enumerate(pieces):
        # Odd pieces lie between OPEN and CLOSE. One that begins where the last ended (a
        # template that adds eos in a block of its own) is the same turn.
        if n % 2 and found and found[-1][1] == at:
            found[-1][1] = at + len(piece)
        elif n % 2:
            found.append([at, at + len(piece)])
        at += len(piece)
    text, turns = "".join(pieces), list(learned(messages, prompt))
    weights = [each.get("weight", 1.0) for each in messages if each["role"] == "assistant"]
    if len(found) != len(turns) and not (all(turns) and {*weights} == {1.0}):
        raise TemplateError(
            f"turns carry weights, but the chat template marks {len(found)} spans for "
            f"{len(turns)} assistant turns; put one {{% generation %}} block around each turn"
        )
    _check_speaker(template, messages, tools)
    if prompt:
        opens(template, text, messages[:prompt], tools, prompt)
    counts = lambda turn: turn >= len(turns) or turns[turn]
    return text, [Span(*each, turn) for turn, each in enumerate(found) if counts(turn)]


def _check_speaker(template, messages, tools) -> None:
    """Check that the blocks enclose nothing of what others say before the assistant does."""
    first = next((n for n, each in enumerate(messages) if each["role"] == "assistant"), 0)
    try:
        marked = template.marked(messages[:first], tools) if first else ""
    except TemplateError:  # one that wants an answer in every conversation
        return
    if any(said.strip() for said in MARKS.split(marked)[1::2]):
        raise TemplateError(
            "the chat template's {% generation %} blocks enclose what others than the assistant "
            "say, which would be learned; expected them around assistant messages alone; move them"
        )


def by_prefix(template, messages, tools, prompt: int) -> tuple[str, list[Span]]:
    """Return the text, and the spans between renderings of its beginnings."""
    text, spans = template.text(messages, tools), []
    turns = [n for n, each in enumerate(messages) if each["role"] == "assistant"]
    for turn, is_learned in enumerate(learned(messages, prompt)):
        if not is_learned:
            continue
        n = turns[turn]
        upto = template.text(messages[: n + 1], tools)
        if not text.startswith(upto):
            # Some templates print eos after the last message, whichever that is.
            upto = upto.removesuffix(template.eos)
        if not text.startswith(upto):
            raise TemplateError(
                f"the chat template does not print message {n} the same way with and without "
                "the messages after it, so what the assistant wrote cannot be told; set "
                "data.turns='each' (one example a turn) or 'last', use a template with "
                "{% generation %} blocks, or loss='all'"
            )
        spans.append(Span(opens(template, upto, messages[:n], tools, n), len(upto), turn))
    return text, spans


def opens(template, text: str, before, tools, n: int) -> int:
    """Return where the prompt `before` ends in `text`, which must begin with it."""
    opening = template.text(before, tools, prompt=True) if before else ""
    if not before:
        return _opens_nothing(template, text, tools)
    if text.startswith(opening):
        return len(opening)
    header = opening.removeprefix(template.text(before, tools))
    if header != opening and text.startswith(opening.removesuffix(header)):
        raise TemplateError(
            f"the chat template opens an answer with {header!r}, and message {n} is printed "
            f"with another beginning: {text[len(opening) - len(header) :][:40]!r}; expected "
            "the same, or the model would be asked in another way than it is taught; write "
            "what the template opens (such as reasoning) into the message, or set "
            "data.template_args (such as enable_thinking=False)"
        )
    raise TemplateError(
        f"the chat template does not print the messages before message {n} the same way with "
        "and without it: the prompt is not the beginning of the whole; use a template that "
        "prints messages one after the other, or loss='all'"
    )


def _opens_nothing(template, text: str, tools) -> int:
    """Return where an assistant message begins that is the first of all."""
    try:
        opening = template.text([], tools, prompt=True)
    except TemplateError:
        return 0
    return len(opening) if text.startswith(opening) else 0


def learned(messages: Sequence[dict], prompt: int) -> Iterator[bool]:
    """Yield for each assistant turn whether it is to be learned."""
    for n, each in enumerate(messages):
        if each["role"] == "assistant":
            yield n >= prompt and each.get("weight", 1.0) != 0
