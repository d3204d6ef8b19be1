"""Chat templates: messages to text, and which characters of it the assistant wrote.

    template = Template(tokenizer.chat_template, bos_token="<s>", eos_token="</s>")
    template.render(messages)                     # the text a model of this family expects
    template.spans(messages)                      # (text, [Span(start, end, turn), ...])

Templates are Jinja, run in the sandbox and with the options that Hugging Face runs them with.
`{% generation %}` marks what the assistant wrote. Stock templates lack it; for those, turn i begins
where the rendering of the messages before it plus the generation prompt ends, and ends where the
rendering up to and with it ends. That is exact or it raises: a template that rewrites earlier turns
(some drop old reasoning) needs the tag.
"""

import functools
import json
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from ftjax.core.conf import nearest

# Our own plain template, for base models that have none; never used without being asked for.
CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}"
    "{%- else %}{{- message['content'] + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
BUILT_IN = {"chatml": CHATML}
# Unicode noncharacters, reserved for use inside a program: they cannot occur in real text.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
# A template is a program that somebody else wrote: it fails in all ways of a small program.
FAILURES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
MARKS = re.compile(f"[{OPEN}{CLOSE}]")


class Span(NamedTuple):
    """Characters [start, end) of the text, written in assistant turn `turn` (from 0)."""

    start: int
    end: int
    turn: int


class TemplateError(ValueError):
    """A template cannot render these messages, or cannot tell what the assistant wrote."""


def find(choice: str | None, tokenizer, *, date: str = "") -> "Template":
    """Return the template that `choice` names.

    choice: None for the tokenizer's own, "chatml" for the built-in one, the path of a .jinja file,
    or template source. date: see `Template`. Raises ValueError when there is none; a default is
    never guessed.
    """
    names = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token or ""}
    names["date"] = date
    if choice is None and tokenizer.chat_template is None:
        raise ValueError(
            "data.chat_template: got None, and the tokenizer has no template; expected 'chatml', "
            "the path of a .jinja file or template source; set it to what the model should learn"
        )
    if choice in BUILT_IN:
        _known_markers(choice, tokenizer)
    return Template(_source(choice) if choice else tokenizer.chat_template, **names)


def _source(choice: str) -> str:
    if choice in BUILT_IN:
        return BUILT_IN[choice]
    if "{%" in choice or "{{" in choice:
        return choice
    path = pathlib.Path(choice).expanduser()
    if path.is_file():
        return path.read_text(encoding="utf-8")
    legal = ", ".join(BUILT_IN)
    raise ValueError(
        f"data.chat_template: got {choice!r}; expected {legal}, the path of a .jinja file or "
        f"template source; {nearest(choice, BUILT_IN)}there is no such file"
    )


def _known_markers(choice: str, tokenizer) -> None:
    for marker in ("<|im_start|>", "<|im_end|>"):
        if tokenizer.token_id(marker) is None:
            raise ValueError(
                f"data.chat_template: got {choice!r}; expected a tokenizer with the token "
                f"{marker!r}; choose a template written with this tokenizer's own tokens"
            )


class Template:
    """A compiled chat template with the special tokens that it may print.

    date: what it prints as today, YYYY-MM-DD; the default is one day for ever, since tokens that
    change from day to day make a run that nobody can resume or repeat.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "", date: str = ""):
        from ftjax.data import limits  # jinja2: slow to import

        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._eos = eos_token
        self._now = limits.clock(date or limits.DATE)
        self.has_tag = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        self._compiled = _compile(source)

    def render(self, messages: Sequence[dict], *, add_generation_prompt: bool = False) -> str:
        """Return the text of `messages`, ready for the assistant if `add_generation_prompt`."""
        return MARKS.sub("", self._marked(messages, prompt=add_generation_prompt))

    def spans(self, messages: Sequence[dict]) -> tuple[str, list[Span]]:
        """Return the text of `messages` and what of it the assistant wrote.

        Raises TemplateError when nothing was, or when it cannot be told.
        """
        text, spans = self._tagged(messages) if self.has_tag else self._by_prefix(messages)
        spans = [span for span in spans if span.end > span.start]
        if not spans:
            raise TemplateError(
                "the chat template renders no assistant text; expected at least one character to "
                "train on; check the messages and the template's {% generation %} blocks"
            )
        return text, spans

    def _marked(self, messages: Sequence[dict], *, prompt: bool = False) -> str:
        import jinja2

        from ftjax.data import limits

        # `weight` is ours; the rest of a message is the template's business.
        shown = [{k: v for k, v in each.items() if k != "weight"} for each in messages]
        if any(MARKS.search(str(each.get("content"))) for each in shown):
            raise TemplateError("a message holds the noncharacter U+FDD0 or U+FDD1; remove it")
        try:
            pieces = self._compiled.generate(
                messages=shown, add_generation_prompt=prompt, tools=None, _turn=limits.Turns(),
                strftime_now=self._now, **self._tokens,
            )  # fmt: skip
            return limits.join(pieces)
        except TemplateError:
            raise
        except (jinja2.TemplateError, *FAILURES) as error:
            told = str(error) or type(error).__name__
            raise TemplateError(f"the chat template refuses these messages: {told}") from error

    def _tagged(self, messages: Sequence[dict]) -> tuple[str, list[Span]]:
        pieces = MARKS.split(self._marked(messages))
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
        return "".join(pieces), [Span(*each, turn) for turn, each in enumerate(found)]

    def _by_prefix(self, messages: Sequence[dict]) -> tuple[str, list[Span]]:
        text, spans = self.render(messages), []
        turns = [n for n, each in enumerate(messages) if each["role"] == "assistant"]
        for turn, n in enumerate(turns):
            before = self.render(messages[:n], add_generation_prompt=True)
            upto = self.render(messages[: n + 1])
            if not text.startswith(upto):
                # Some templates print eos after the last message, whichever that is.
                upto = upto.removesuffix(self._eos)
            if not text.startswith(upto) or not upto.startswith(before):
                raise TemplateError(
                    f"the chat template does not print message {n} the same way with and without "
                    "the messages after it, so what the assistant wrote cannot be told; use a "
                    "template with {% generation %} blocks or loss='all'"
                )
            spans.append(Span(len(before), len(upto), turn))
        return text, spans


@functools.lru_cache(maxsize=32)
def _compile(source: str):
    import jinja2
    from jinja2 import ext, nodes

    from ftjax.data import limits

    class Generation(ext.Extension):
        """`{% generation %}...{% endgeneration %}`: put marks around what it renders."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's interface

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_mark")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _mark(self, caller):
            return OPEN + caller() + CLOSE

    environment = limits.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise)
    environment.filters["_bounded"] = limits.bounded
    try:
        return environment.from_string(limits.limit(environment.parse(source)))
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"data.chat_template: line {error.lineno}: {error.message}") from error


def _tojson(value, **options) -> str:
    # Jinja's own filter escapes HTML characters, which no model expects.
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise(message: str):
    raise TemplateError(f"the chat template refuses these messages: {message}")
