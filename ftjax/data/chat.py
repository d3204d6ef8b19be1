"""Chat templates: messages to text, and which characters of it the assistant wrote.

    template = Template(tokenizer.chat_template, bos_token="<s>", eos_token="</s>")
    template.render(messages)                     # the text a model of this family expects
    template.spans(messages)                      # (text, [Span(start, end, turn), ...])

Templates are Jinja, run in the sandbox and with the options that Hugging Face runs them with.
`{% generation %}` marks what the assistant wrote. Stock templates lack it; for those, turn i begins
where the rendering of the messages before it plus the generation prompt ends, and ends where the
rendering up to and with it ends. That is exact or it raises: where a template rewrites earlier
turns (some drop old reasoning), each turn is an example of its own, or it needs the tag.

What a template leaves out of a conversation is an error too, unless `allow_dropped` names it.
"""

import copy
import functools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence

from ftjax.core import config as conf
from ftjax.core.config import nearest
from ftjax.data import messages as messages_lib
from ftjax.data import shown, spans
from ftjax.data.spans import Span, TemplateError

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
RESERVED = re.compile(f"[{spans.OPEN}-{shown.LAST}]")
# A template is a program that somebody else wrote: it fails in all ways of a small program.
FAILURES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
DROPPED = (*messages_lib.MAPPED, *shown.PARTS)


def find(
    choice: str | None, tokenizer, *, arguments: Mapping | None = None,
    allow_dropped: Sequence[str] = (), date: str = "",
) -> "Template":  # fmt: skip
    """Return the template that `choice` names.

    choice: None for the tokenizer's own, "chatml" for the built-in one, the path of a .jinja file,
    or template source. arguments, allow_dropped, date: see `Template`.
    Raises ValueError when there is none; a default is never guessed.
    """
    names = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token or ""}
    names |= {"arguments": arguments, "allow_dropped": allow_dropped, "date": date}
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

    arguments: values that the template reads by name, such as enable_thinking=False.
    allow_dropped: what it may leave out: roles, "reasoning", "tool_calls", "tools" and "name".
    date: what it prints as today, YYYY-MM-DD; the default is one day for ever, since tokens that
    change from day to day make a run that nobody can resume or repeat.
    """

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = "", date: str = "",
        arguments: Mapping | None = None, allow_dropped: Sequence[str] = (),
    ):  # fmt: skip
        from ftjax.data import template_limits  # jinja2: slow to import

        self.source = source
        self.eos = eos_token
        self._now = template_limits.clock(date or template_limits.DATE)
        self.has_tag = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        self._compiled = _compile(source)
        self.arguments, self.allow_dropped = dict(arguments or {}), tuple(allow_dropped)
        self._check_options()
        self._names = {"bos_token": bos_token, "eos_token": eos_token, **self.arguments}
        # The name by which this template reads the reasoning of a message.
        read = (key for key in messages_lib.REASONING if key in source)
        self._reasoning = next(read, messages_lib.REASONING[0])

    def render(
        self, messages: Sequence[dict], *, tools: Sequence[dict] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:  # fmt: skip
        """Return the text of `messages`, ready for the assistant if `add_generation_prompt`."""
        _check_reserved(messages, tools)
        return self.text(messages, tools, prompt=add_generation_prompt)

    def render_checked(
        self, messages: Sequence[dict], *, tools: Sequence[dict] | None = None
    ) -> str:
        """Return the text of `messages`; raises TemplateError unless all of them is in it."""
        text = self.render(messages, tools=tools)
        self._check_shown(text, messages, tools)
        return text

    def opening(self, messages: Sequence[dict], *, tools: Sequence[dict] | None = None) -> str:
        """Return the text that a model is to go on from.

        After an assistant message it is that message, not ended; else the assistant's header.
        Raises TemplateError unless all that others say is in it; of what the assistant has said,
        templates may leave out the reasoning.
        """
        if messages[-1]["role"] != "assistant" or messages[-1].get("tool_calls"):
            text = self.render(messages, tools=tools, add_generation_prompt=True)
            self._check_shown(text, messages, tools, roles=messages_lib.ASKING)
            return text
        _check_reserved(messages, tools)
        text, mark, _ = self.text(shown.mark(messages), tools).partition(shown.FIRST)
        if not mark:
            raise TemplateError("the chat template does not print the last message; change one")
        self._check_shown(text, messages, tools, roles=messages_lib.ASKING)
        return text

    def ending(self) -> str:
        """Return what the template prints behind what the assistant says, "" if it cannot tell."""
        asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            return self.text(shown.mark(asked), None).partition(shown.FIRST)[2]
        except TemplateError:
            return ""

    def spans(
        self, messages: Sequence[dict], *, tools: Sequence[dict] | None = None, prompt: int = 0
    ) -> tuple[str, list[Span]]:
        """Return the text of `messages` and what of it the assistant wrote.

        prompt: the number of messages at the beginning that are given and not learned.
        Raises TemplateError when nothing was, when it cannot be told, or when something of the
        conversation is not in the text.
        """
        _check_reserved(messages, tools)
        find = spans.tagged if self.has_tag else spans.by_prefix
        text, found = find(self, messages, tools, prompt)
        found = [span for span in found if span.end > span.start]
        if not found and any(spans.learned(messages, prompt)):
            raise TemplateError(
                "the chat template renders no assistant text; expected at least one character to "
                "train on; check the messages and the template's {% generation %} blocks"
            )
        self._check_shown(text, messages, tools)
        return text, found

    def unread(self, messages: Sequence[dict], *, tools: Sequence[dict] | None = None) -> set[str]:
        """Return the keys of messages that the template does not read, beside their texts."""
        return shown.unread(messages, lambda messages: self._probe(messages, tools))

    def _check_options(self) -> None:
        from jinja2 import meta

        names = meta.find_undeclared_variables(_environment().parse(self.source))
        for name in self.arguments:
            if name not in names:
                raise ValueError(
                    f"data.template_args: got {name!r}; expected a name that the chat template "
                    f"reads: {conf.listed(names)}; {nearest(name, names)}drop it"
                )
        for part in self.allow_dropped:
            if part not in DROPPED:
                raise ValueError(
                    f"data.allow_dropped: got {part!r}; expected some of {', '.join(DROPPED)}; "
                    f"{nearest(part, DROPPED)}"
                )

    def text(self, messages, tools, *, prompt: bool = False) -> str:
        """Return the text of messages that are known to hold no marks."""
        return spans.MARKS.sub("", self.marked(messages, tools, prompt=prompt))

    def marked(self, messages, tools, *, prompt: bool = False) -> str:
        """Return the text with the marks around what `{% generation %}` encloses."""
        import jinja2

        from ftjax.data import template_limits

        # What templates see is a copy: some change it.
        seen = [self._seen(each) for each in messages]
        given = {"messages": seen, "tools": copy.deepcopy(tools), "documents": None}
        given |= {"strftime_now": self._now, "_turn": template_limits.Turns()}
        try:
            return template_limits.join(
                self._compiled.generate(**given | self._names | {"add_generation_prompt": prompt})
            )
        except TemplateError:
            raise  # `raise_exception` in the template
        except (jinja2.TemplateError, *FAILURES) as error:
            told = str(error) or type(error).__name__
            raise TemplateError(f"the chat template refuses these messages: {told}") from error

    def _seen(self, message: dict) -> dict:
        """Return a message as this template reads it."""
        found = {k: v for k, v in message.items() if k not in ("weight", "reasoning_content")}
        if "reasoning_content" in message:
            found[self._reasoning] = message["reasoning_content"]
        if "tool_calls" in message:
            found["tool_calls"] = [self._seen_call(each) for each in message["tool_calls"]]
        return found

    def _seen_call(self, call: dict) -> dict:
        function = dict(call["function"])
        if self._wants_json:
            function["arguments"] = _tojson(function["arguments"])
        return call | {"function": function}

    @functools.cached_property
    def _wants_json(self) -> bool:
        """Return whether the template prints arguments as they are, so that they must be text."""
        self._wants_json = False  # while it is found out
        call = {"type": "function", "function": {"name": "f", "arguments": {"city": "x"}}}
        calls = {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001"} | call]}
        asked = [{"role": "user", "content": "a"}, calls]
        try:
            return "{'city': 'x'}" in self.text(asked, None)
        except TemplateError as error:
            return "must be str" in str(error) or "concatenate" in str(error)

    def _check_shown(self, text: str, messages, tools, *, roles=messages_lib.MAPPED) -> None:
        """Raise TemplateError unless what these roles say, and the tools, are in the text."""
        for n, part in shown.left_out(messages, tools=tools, text=text, render=self._probe):
            if n is not None and messages[n]["role"] not in roles:
                continue
            # Reasoning of a turn that is only context goes as the template has it.
            context = part == "reasoning" and messages[n].get("weight", 1.0) == 0
            if part in self.allow_dropped or context:
                continue
            if part == "tools":
                what = "the tools of the row"
            elif part in shown.PARTS:
                what = f"the {part.replace('_', ' ')} of message {n}"
            else:
                what = f"message {n} ({part}), or not as it is"
            if part == "reasoning" and _answers_after(messages, n):
                advice = "data.turns='each' learns each turn as it is printed when it is the last; "
            else:
                advice = ""
            raise TemplateError(
                f"the chat template does not show {what}; expected all of a conversation in the "
                f"text; choose a template that prints it, take it out of the data, {advice}or "
                f"accept it with data.allow_dropped=({part!r},)"
            )

    def _probe(self, messages, tools) -> str | None:
        try:
            return self.text(messages, tools)
        except TemplateError:
            return None


def _answers_after(messages: Sequence[dict], n: int) -> bool:
    return any(each["role"] == "assistant" for each in messages[n + 1 :])


def _check_reserved(messages: Sequence[dict], tools) -> None:
    if RESERVED.search(json.dumps([list(messages), tools], ensure_ascii=False, default=str)):
        raise TemplateError(
            "a message holds a noncharacter between U+FDD0 and U+FDE3, which no text has; remove it"
        )


@functools.lru_cache(maxsize=32)
def _compile(source: str):
    import jinja2

    from ftjax.data import template_limits

    environment = _environment()
    try:
        return environment.from_string(template_limits.limit(environment.parse(source)))
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"data.chat_template: line {error.lineno}: {error.message}") from error


@functools.cache
def _environment():
    from jinja2 import ext, nodes

    from ftjax.data import template_limits

    class Generation(ext.Extension):
        """`{% generation %}...{% endgeneration %}`: put marks around what it renders."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's interface

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_mark")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _mark(self, caller):
            return spans.OPEN + caller() + spans.CLOSE

    environment = template_limits.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise)
    environment.filters["_bounded"] = template_limits.bounded
    return environment


def _tojson(value, **options) -> str:
    # Jinja's own filter escapes HTML characters, which no model expects.
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise(message: str):
    raise TemplateError(f"the chat template refuses these messages: {message}")
