r"""Chat templates as they are in the wild: each rendered with the right mask, or refused by name.

⟦ ⟧ marks what is learned.
"""

import pytest

from ftjax.data import chat, stops

U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
SYS = {"role": "system", "content": "Be kind"}
THINKS = {"role": "assistant", "content": "Yo", "reasoning_content": "so it is"}
CALLS = {
    "role": "assistant", "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}],
}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
NAMED, SEEN = U | {"name": "Ann"}, {"role": "tool", "content": "blue", "name": "look"}
TAGGED = {"role": "assistant", "content": "<think>\nso it is\n</think>\n\nYo"}


def each(body, *, before="", after=""):
    """Write a template that prints `body` for every message `m`."""
    return before + "{% for m in messages %}" + body + "{% endfor %}" + after


OPENS = "{% if add_generation_prompt %}A:{% endif %}"
STOCK = each("{{ m.role[0] | upper }}:{{ m.content }}<|eos|>", after=OPENS)
STRIPS = each(
    "{% if m.role == 'assistant' %}A:{% if loop.last %}{{ m.content }}"
    "{% else %}{{ m.content.split('</think>')[-1].lstrip() }}{% endif %}<|eos|>"
    "{% else %}U:{{ m.content }}|{% endif %}",
    after=OPENS,
)
CALL = "{% for c in m.tool_calls or [] %}{{ c.function.name }}@{% endfor %}"


def calling(arguments):
    return each(
        "{{ m.role[0] | upper }}:{{ m.content }}" + CALL.replace("@", arguments) + "|", after=OPENS
    )


# name: (template, messages, the text with what is learned) and perhaps tools or arguments
RENDERED = {
    "no tag": (STOCK, [U, A], "U:Hi<|eos|>A:⟦Yo<|eos|>⟧"),
    "system": (STOCK, [SYS, U, A], "S:Be kind<|eos|>U:Hi<|eos|>A:⟦Yo<|eos|>⟧"),
    "tag": (each("{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}|"
                 "{% endgeneration %}{% else %}U:{{ m.content }}|{% endif %}"),
            [U, A, U, A], "U:Hi|A:⟦Yo|⟧U:Hi|A:⟦Yo|⟧"),
    "tag around every message": (
        each("{% generation %}{{ m.content }}|{% endgeneration %}"), [A], "⟦Yo|⟧"),
    "no generation prompt": (
        each("{{ m.content }}{% if m.role == 'user' %}>{% else %}|{% endif %}"), [U, A, U, A],
        "Hi>⟦Yo|⟧Hi>⟦Yo|⟧"),
    "trims": (each("{{ m.role[0] }}:{{ m.content | trim }}|", after="{% if "
                   "add_generation_prompt %}a:{% endif %}"),
              [U | {"content": " Hi\n"}, A], "u:Hi|a:⟦Yo|⟧"),
    "bos": ("{{ bos_token }}" + STOCK, [U, A], "<|bos|>U:Hi<|eos|>A:⟦Yo<|eos|>⟧"),
    "eos at the very end": (
        each("{{ m.role[0] | upper }}:{{ m.content }} ",
             after="{% if add_generation_prompt %}A:{% else %}{{ eos_token }}{% endif %}"),
        [U, A, U, A], "U:Hi A:⟦Yo ⟧U:Hi A:⟦Yo <|eos|>⟧"),
    "merges the system into the first turn": (
        "{% set s = messages[0].content + ' ' if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
        "[{{ s if loop.first else '' }}{{ m.content }}]{% else %}{{ m.content }}|{% endif %}"
        "{% endfor %}", [SYS, U, A, U, A], "[Be kind Hi]⟦Yo|⟧[Hi]⟦Yo|⟧"),
    "another name for the assistant": (
        each("{{ 'model' if m.role == 'assistant' else m.role }}:{{ m.content }}|",
             after="{% if add_generation_prompt %}model:{% endif %}"),
        [U, A], "user:Hi|model:⟦Yo|⟧"),
    "content as JSON": (
        each("{{ m.content | tojson }}{% if m.role == 'user' %}>{% endif %}"),
        [U | {"content": "a\n\"b\" é"}, A], '"a\\n\\"b\\" é">⟦"Yo"⟧'),
    "splits reasoning off the content": (
        each("{% if m.role == 'user' %}{{ m.content }}>{% else %}"
             "{% set p = m.content.split('</think>') %}"
             "<think>{{ p[0].replace('<think>', '') | trim }}</think>"
             "{{ p[1] | trim }}|{% endif %}"),
        [U, TAGGED], "Hi>⟦<think>so it is</think>Yo|⟧"),
    "reasoning_content": (
        each("{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}|"),
        [U, THINKS], "Hi|⟦(so it is)Yo|⟧"),
    "thinking": (
        each("{% if m.thinking %}({{ m.thinking }}){% endif %}{{ m.content }}|"),
        [U, THINKS], "Hi|⟦(so it is)Yo|⟧"),
    "reasoning": (
        each("{% if m.reasoning is defined %}({{ m.reasoning }}){% endif %}{{ m.content }}|"),
        [U, THINKS], "Hi|⟦(so it is)Yo|⟧"),
    "calls as JSON": (calling("{{ c.function.arguments | tojson }}"), [U, CALLS],
                      'U:Hi|A:⟦look{"at": "sky"}|⟧'),
    "calls as given": (calling("{{ c.function.arguments }}"), [U, CALLS],
                       'U:Hi|A:⟦look{"at": "sky"}|⟧'),
    "calls that are added to texts": (calling("{{ ' ' + c.function.arguments }}"), [U, CALLS],
                                      'U:Hi|A:⟦look {"at": "sky"}|⟧'),
    "calls as XML": (
        calling("{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}</{{ k }}>"
                "{% endfor %}"), [U, CALLS], "U:Hi|A:⟦look<at>sky</at>|⟧"),
    "tools": ("{% for t in tools or [] %}{{ t.function.name }};{% endfor %}" + STOCK, [U, A],
              "look;U:Hi<|eos|>A:⟦Yo<|eos|>⟧", {"tools": TOOLS}),
    "tools as JSON": ("{% if tools %}{{ tools | tojson }}{% endif %}" + STOCK, [U, A],
                      '[{"type": "function", "function": {"name": "look", "parameters": {}}}]'
                      "U:Hi<|eos|>A:⟦Yo<|eos|>⟧", {"tools": TOOLS}),
    "an argument that changes the opening": (
        each("{{ m.role[0] | upper }}:{% if m.role == 'assistant' and not thinks %}<t></t>"
             "{% endif %}{{ m.content }}|",
             after="{% if add_generation_prompt %}A:{% if not thinks %}<t></t>{% endif %}"
             "{% endif %}"),
        [U, A], "U:Hi|A:<t></t>⟦Yo|⟧", {"arguments": {"thinks": False}}),
    "only the last turn is learned": (
        STRIPS, [U, TAGGED | {"weight": 0.0}, U, TAGGED],
        "U:Hi|A:Yo<|eos|>U:Hi|A:⟦<think>\nso it is\n</think>\n\nYo<|eos|>⟧"),
    "a system that may go": (
        each("{% if m.role != 'system' %}{{ m.content }}|{% endif %}"), [SYS, U, A], "Hi|⟦Yo|⟧",
        {"allow_dropped": ("system",)}),
    "reasoning that may go": (STOCK, [U, THINKS], "U:Hi<|eos|>A:⟦Yo<|eos|>⟧",
                              {"allow_dropped": ("reasoning",)}),
    "names of speakers": (
        each("{{ m.name or m.role }}:{{ m.content }}|", after="{% if add_generation_prompt %}"
             "assistant:{% endif %}"), [NAMED, A], "Ann:Hi|assistant:⟦Yo|⟧"),
    "a name that may go": (STOCK, [NAMED, A], "U:Hi<|eos|>A:⟦Yo<|eos|>⟧",
                           {"allow_dropped": ("name",)}),
    "a tool's name, which its call shows": (
        calling("{{ c.function.arguments | tojson }}"), [U, CALLS, SEEN, A],
        'U:Hi|A:⟦look{"at": "sky"}|⟧T:blue|A:⟦Yo|⟧'),
    "a message that is part of another": (
        STOCK, [SYS | {"content": "a"}, U | {"content": "a cat"}, A],
        "S:a<|eos|>U:a cat<|eos|>A:⟦Yo<|eos|>⟧"),
    "changes its messages": (
        "{% set _ = messages.append({'role': 'user', 'content': ''}) if false %}" + STOCK, [U, A],
        "U:Hi<|eos|>A:⟦Yo<|eos|>⟧"),
    "loop controls": (
        each("{% if m.role == 'tool' %}{% continue %}{% endif %}{{ m.content }}|"), [U, A],
        "Hi|⟦Yo|⟧"),
}  # fmt: skip

# name: (template, messages, words of the refusal) and perhaps tools or arguments
REFUSED = {
    "drops the system": (each("{% if m.role != 'system' %}{{ m.content }}|{% endif %}"),
                         [SYS, U, A], "message 0 (system)"),
    "drops a short system": (each("{% if m.role != 'system' %}{{ m.role }}:{{ m.content }}|"
                                  "{% endif %}"), [SYS | {"content": "a"}, U, A], "message 0"),
    "drops reasoning": (STOCK, [U, THINKS], "the reasoning of message 1"),
    "drops calls": (STOCK, [U, CALLS, U, A], "the tool calls of message 1"),
    "names calls without arguments": (calling(""), [U, CALLS], "the tool calls of message 1"),
    "drops tools": (STOCK, [U, A], "the tools of the row", {"tools": TOOLS}),
    "drops a speaker's name": (STOCK, [NAMED, A], "the name of message 0"),
    "drops the name of an assistant": (STOCK, [U, A | {"name": "Bo"}], "the name of message 1"),
    "drops a tool's name, which no call shows": (
        calling("{{ c.function.arguments | tojson }}"), [U, CALLS, SEEN | {"name": "see"}, A],
        "the name of message 2"),
    "cuts a message": (each("{{ m.content[:3] }}|"), [U | {"content": "Hi there"}, A],
                       "message 0 (user)"),
    "keeps the last message alone": ("{{ messages[-1].content }}", [U, A], "not the beginning"),
    "strips reasoning of earlier turns": (STRIPS, [U, TAGGED, U, TAGGED], "data.turns='each'"),
    "puts the system into the last turn": (
        "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
        "[{{ s if loop.last else '' }}{{ m.content }}]{% else %}{{ m.content }}|{% endif %}"
        "{% endfor %}", [SYS, U, A], "not the beginning of the whole"),
    "opens an answer that the data do not": (
        each("{{ m.role[0] | upper }}:{{ m.content }}|",
             after="{% if add_generation_prompt %}A:<think>{% endif %}"),
        [U, A], "opens an answer with 'A:<think>'"),
    "refuses roles": ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
                      "{% endif %}" + STOCK, [SYS, U, A], "no system"),
    "adds what is no text": (each("{{ m.content + m.nothing }}"), [U, A], "refuses these"),
    "divides by zero": (each("{{ 1 / 0 }}{{ m.content }}"), [U, A], "refuses these messages"),
    "weights, and tags that are not turns": (
        each("{% generation %}{{ m.content }}|{% endgeneration %} "),
        [U, A | {"weight": 0.5}], "2 spans for 1 assistant turns"),
    "tags around what others say": (
        each("{% generation %}{{ m.content }}|{% endgeneration %} "), [SYS, U, A],
        "blocks enclose what others than the assistant say"),
    "an argument that it does not read": (STOCK, [U, A], "data.template_args: got 'thinks'",
                                          {"arguments": {"thinks": True}}),
    "an unknown part": (STOCK, [U, A], "did you mean 'reasoning'",
                        {"allow_dropped": ("reasonin",)}),
}  # fmt: skip


def spans(source, messages, *, tools=None, **options):
    template = chat.Template(source, bos_token="<|bos|>", eos_token="<|eos|>", **options)
    return template.spans(messages, tools=tools)


@pytest.mark.parametrize("case", RENDERED.values(), ids=RENDERED.keys())
def test_rendered_with_the_right_mask(case):
    source, messages, expected, *options = case
    text, found = spans(source, messages, **dict(*options))
    for span in reversed(found):
        text = f"{text[: span.start]}⟦{text[span.start : span.end]}⟧{text[span.end :]}"
    assert text == expected


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_name(case):
    source, messages, words, *options = case
    with pytest.raises(ValueError, match=r"template|data\.") as error:
        spans(source, messages, **dict(*options))
    assert words in str(error.value)


def test_keys_that_change_nothing_of_the_text_are_unread():
    template = chat.Template(each("{{ m.mood }}{{ m.content }}|"))
    messages = [U | {"mood": "glad", "url": "x"}, A | {"id": 3}]
    assert template.unread(messages) == {"url", "id"}
    known = [NAMED, A | {"weight": 0.5}, SEEN | {"tool_call_id": "1"}]
    assert template.unread(known) == set()


def test_a_conversation_that_ends_with_the_assistant_is_continued():
    template = chat.Template(STOCK, eos_token="<|eos|>")
    assert template.opening([U]) == "U:Hi<|eos|>A:"
    assert template.opening([U, A]) == "U:Hi<|eos|>A:Yo"
    assert template.opening([U, A | {"content": "Yo, "}]).endswith("A:Yo, ")
    assert template.opening([U, CALLS]).endswith("<|eos|>A:")


def test_what_is_asked_is_in_the_prompt():
    drops = each("{% if m.role != 'system' %}{{ m.content }}|{% endif %}", after=OPENS)
    with pytest.raises(chat.TemplateError, match=r"does not show message 0 \(system\)"):
        chat.Template(drops).opening([SYS, U])
    with pytest.raises(chat.TemplateError, match="does not show the tools"):
        chat.Template(STOCK).opening([U], tools=TOOLS)
    allowed = chat.Template(drops, allow_dropped=("system", "tools"))
    assert allowed.opening([SYS, U], tools=TOOLS) == "Hi|A:"
    # What the assistant has said is shortened by many, as in training they may not.
    assert chat.Template(STRIPS).opening([U, TAGGED, U]) == "U:Hi|A:Yo<|eos|>U:Hi|A:"
    with pytest.raises(chat.TemplateError, match=r"does not show message 0 \(system\)"):
        chat.Template(drops).opening([SYS, U, A])  # which is continued
    assert allowed.opening([SYS, U, A]) == "Hi|Yo"


def test_the_end_that_a_template_prints_is_a_stop(bpe):
    ends = each("{{ m.content }}<|im_start|>\n")
    template = chat.Template(ends)
    assert stops.ids(bpe)[0] == bpe.eos_id
    assert bpe.token_id("<|im_start|>") not in stops.ids(bpe)
    assert bpe.token_id("<|im_start|>") in stops.ids(bpe, template)
    assert stops.ids(bpe, chat.Template("{{ raise_exception('no') }}")) == stops.ids(bpe)
