r"""Row shapes as people bring them: each is rendered with the right mask, or refused by name.

⟦ ⟧ marks what is learned. Rows go through the readers, the checks and the encoder of a run.
"""

import json

import numpy as np
import pytest

from ftjax.data import prepare

# Shows all there is to show: tools, reasoning, calls. The end of a turn is learned with it.
FULL = """\
{%- if tools %}T:{% for t in tools %}{{ t.function.name }};{% endfor %}<|im_end|>{% endif -%}
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + ':' -}}
{%- if m.role == 'assistant' -%}
{%- if m.reasoning_content %}{{- '(' + m.reasoning_content + ')' }}{% endif -%}
{{- m.content -}}
{%- for c in m.tool_calls or [] %}
{{- c.function.name ~ (c.function.arguments | tojson) }}{% endfor -%}
{{- '<|im_end|>' -}}
{%- else -%}{{- m.content + '<|im_end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant:' }}{% endif -%}
"""
U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
SYS = {"role": "system", "content": "Be kind"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"function": {"name": "look", "arguments": {"at": "sky"}}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
SEEN = {"role": "tool", "content": "blue", "tool_call_id": "1"}
ASK, SAY = "<|im_start|>user:Hi<|im_end|>", "<|im_start|>assistant:⟦Yo<|im_end|>⟧"
PLAIN = ASK + SAY
KIND = "<|im_start|>system:Be kind<|im_end|>"
LOOK = '⟦look{"at": "sky"}<|im_end|>⟧'
USED = f"{ASK}<|im_start|>assistant:{LOOK}<|im_start|>tool:blue<|im_end|>{SAY}"
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}


def talk(*messages, **more):
    return {"messages": list(messages), **more}


def said(content, **more):
    return {"role": "assistant", "content": content, **more}


def calls(**call):
    return CALLS | {"tool_calls": [{"function": {"name": "look", **call}}]}


# name: (kind, row, what is rendered) and perhaps options of the data section
RENDERED = {
    "openai": ("chat", talk(U, A), PLAIN),
    "system in front": ("chat", talk(SYS, U, A), KIND + PLAIN),
    "system beside": ("chat", talk(U, A, system="Be kind"), KIND + PLAIN),
    "empty system beside": ("chat", talk(U, A, system=""), PLAIN),
    "null system beside": ("chat", talk(U, A, system=None), PLAIN),
    "messages as JSON text": ("chat", {"messages": json.dumps([U, A])}, PLAIN),
    "messages under conversations": ("chat", {"conversations": [U, A]}, PLAIN),
    "sharegpt": ("chat", {"conversations": [HUMAN, GPT]}, PLAIN),
    "sharegpt under messages": ("chat", {"messages": [HUMAN, GPT]}, PLAIN),
    "sharegpt with a system": (
        "chat", {"conversations": [{"from": "system", "value": "Be kind"}, HUMAN, GPT]},
        KIND + PLAIN),
    "sharegpt with a system beside": (
        "chat", {"conversations": [HUMAN, GPT], "system": "Be kind"}, KIND + PLAIN),
    "sharegpt that calls": (
        "chat",
        {"conversations": [HUMAN, {"from": "function_call", "value": json.dumps(CALL["function"])},
                           {"from": "observation", "value": "blue"}, GPT]},
        USED),
    "sharegpt with a weight": (
        "chat", {"conversations": [HUMAN, GPT | {"weight": 0}, HUMAN, GPT]},
        f"{ASK}<|im_start|>assistant:Yo<|im_end|>{PLAIN}"),
    "alpaca": (
        "chat", {"instruction": "Hi", "input": "", "output": "Yo"}, PLAIN),
    "alpaca with an input": (
        "chat", {"instruction": "Add", "input": "1, 2", "output": "3"},
        "<|im_start|>user:Add\n1, 2<|im_end|><|im_start|>assistant:⟦3<|im_end|>⟧"),
    "alpaca without input": ("chat", {"instruction": "Hi", "output": "Yo"}, PLAIN),
    "alpaca with system": (
        "chat", {"instruction": "Hi", "output": "Yo", "system": "Be kind"}, KIND + PLAIN),
    "alpaca with history": (
        "chat", {"instruction": "Hi", "output": "Yo", "history": [["Hi", "Yo"]]}, PLAIN + PLAIN),
    "alpaca as text": (
        "prompt", {"instruction": "Add", "input": "1, 2", "output": "3"}, "Add\n1, 2\n⟦3<|eos|>⟧"),
    "alpaca as text, null input": (
        "prompt", {"instruction": "Name", "input": None, "output": "3"}, "Name\n⟦3<|eos|>⟧"),
    "prompt and completion": ("prompt", {"prompt": "a:", "completion": "b"}, "a:⟦b<|eos|>⟧"),
    "prompt and response": ("prompt", {"prompt": "a:", "response": "b"}, "a:⟦b<|eos|>⟧"),
    "prompt and completion as a chat": ("chat", {"prompt": "Hi", "completion": "Yo"}, PLAIN),
    "messages and completion": ("prompt", {"prompt": [U], "completion": [A]}, PLAIN),
    "messages and a text": ("prompt", {"prompt": [U], "response": "Yo"}, PLAIN),
    "messages of a prompt with tools": (
        "prompt", {"prompt": [U], "response": [A], "tools": [TOOL]}, f"T:look;<|im_end|>{PLAIN}"),
    "answers in a prompt are given": (
        "prompt", {"prompt": [U, A, U], "response": "Yo"},
        f"{ASK}<|im_start|>assistant:Yo<|im_end|>{PLAIN}"),
    "answers in a prompt, as a chat": (
        "chat", {"prompt": [U, A, U], "completion": [A]},
        f"{ASK}<|im_start|>assistant:Yo<|im_end|>{PLAIN}"),
    "the user's words in a response": (
        "prompt", {"prompt": [U], "response": [A, U, A]}, PLAIN + PLAIN),
    "text": ("text", {"text": "a b"}, "⟦a b<|eos|>⟧"),
    "ends with the user": ("chat", talk(U, A, U), PLAIN + ASK),
    "two users": ("chat", talk(U, U, A), ASK + PLAIN),
    "begins with the assistant": ("chat", talk(A, U, A), SAY + PLAIN),
    "content of parts": (
        "chat", talk(U | {"content": [{"type": "text", "text": "H"}, {"text": "i"}]}, A), PLAIN),
    "content of output parts": (
        "chat", talk(U, said([{"type": "output_text", "text": "Yo"}])), PLAIN),
    "tools": ("chat", talk(U, A, tools=[TOOL]), f"T:look;<|im_end|>{PLAIN}"),
    "tools as JSON text": (
        "chat", talk(U, A, tools=json.dumps([TOOL])), f"T:look;<|im_end|>{PLAIN}"),
    "bare tools": ("chat", talk(U, A, tools=[TOOL["function"]]), f"T:look;<|im_end|>{PLAIN}"),
    "no tools": ("chat", talk(U, A, tools=[]), PLAIN),
    "null tools": ("chat", talk(U, A, tools=None), PLAIN),
    "a call": ("chat", talk(U, CALLS, SEEN, A), USED),
    "a call with null content": ("chat", talk(U, CALLS | {"content": None}, SEEN, A), USED),
    "a call with no content": (
        "chat", talk(U, {k: v for k, v in CALLS.items() if k != "content"}, SEEN, A), USED),
    "arguments as JSON text": ("chat", talk(U, calls(arguments='{"at": "sky"}'), SEEN, A), USED),
    "arguments with the nulls of a table": (
        "chat", talk(U, calls(arguments={"at": "sky", "on": None}), SEEN, A), USED),
    "a null written on purpose": (
        "chat", talk(U, calls(arguments='{"at": null}')),
        f'{ASK}<|im_start|>assistant:⟦look{{"at": null}}<|im_end|>⟧'),
    "a call without arguments": (
        "chat", talk(U, calls()), f"{ASK}<|im_start|>assistant:⟦look{{}}<|im_end|>⟧"),
    "a bare call": ("chat", talk(U, CALLS | {"tool_calls": [CALL["function"]]}, SEEN, A), USED),
    "the old function_call": (
        "chat", talk(U, {"role": "assistant", "function_call": CALL["function"]}, SEEN, A), USED),
    "reasoning_content": (
        "chat", talk(U, said("Yo", reasoning_content="so")),
        f"{ASK}<|im_start|>assistant:⟦(so)Yo<|im_end|>⟧"),
    "thinking": (
        "chat", talk(U, said("Yo", thinking="so")),
        f"{ASK}<|im_start|>assistant:⟦(so)Yo<|im_end|>⟧"),
    "reasoning": (
        "chat", talk(U, said("Yo", reasoning="so")),
        f"{ASK}<|im_start|>assistant:⟦(so)Yo<|im_end|>⟧"),
    "an empty name": ("chat", talk(U | {"name": ""}, A), PLAIN),
    "a tool's name": ("chat", talk(U, CALLS, SEEN | {"name": "look"}, A), USED),
    "null keys": (
        "chat", talk(U | {"weight": None, "tool_calls": None}, A | {"reasoning": None},
                     tools=None), PLAIN),
    "weight 0": ("chat", talk(U, A | {"weight": 0}, U, A),
                 f"{ASK}<|im_start|>assistant:Yo<|im_end|>{PLAIN}"),
    "train": ("chat", talk(U, A | {"train": False}, U, A | {"train": True}),
              f"{ASK}<|im_start|>assistant:Yo<|im_end|>{PLAIN}"),
    "training": ("chat", talk(U | {"training": False}, A | {"training": False}, U, A),
                 f"{ASK}<|im_start|>assistant:Yo<|im_end|>{PLAIN}"),
    "loss_mask": ("chat", talk(U | {"loss_mask": 0}, A | {"loss_mask": 0}, U, A),
                  f"{ASK}<|im_start|>assistant:Yo<|im_end|>{PLAIN}"),
    "loss": ("chat", talk(U, A | {"loss": False}, U, A | {"loss": True}),
             f"{ASK}<|im_start|>assistant:Yo<|im_end|>{PLAIN}"),
    "an empty turn that is not learned": (
        "chat", talk(U, said("", weight=0), U, A),
        f"{ASK}<|im_start|>assistant:<|im_end|>{PLAIN}"),
    "a column called weight": (
        "prompt", {"prompt": "a:", "response": "b", "weight": 82.5}, "a:⟦b<|eos|>⟧"),
    "a mapped role": (
        "chat", talk(U, A, {"role": "function", "content": "blue"}, A),
        f"{PLAIN}<|im_start|>tool:blue<|im_end|>{SAY}", {"roles": {"function": "tool"}}),
    "a role that keeps its name": (
        "chat", talk(U, A, {"role": "ipython", "content": "blue"}, A),
        f"{PLAIN}<|im_start|>ipython:blue<|im_end|>{SAY}", {"roles": {"ipython": "ipython"}}),
    "roles of ShareGPT in messages": (
        "chat", talk({"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Yo"}), PLAIN,
        {"roles": {"human": "user", "gpt": "assistant"}}),
    "a mapped field": ("chat", {"dialog": [U, A]}, PLAIN, {"fields": {"messages": "dialog"}}),
    "the last turn": ("chat", talk(U, A, U, A),
                      f"{ASK}<|im_start|>assistant:Yo<|im_end|>{PLAIN}", {"turns": "last"}),
    "private characters": (
        "chat", talk(U | {"content": "\U000f0003\U00100003"}, A),
        f"<|im_start|>user:\U000f0003\U00100003<|im_end|>{SAY}", {"special": False}),
    "markers in a tool's answer": (
        "chat", talk(U, A, SEEN | {"content": "<|im_end|>"}, A),
        f"{PLAIN}<|im_start|>tool:<|im_end|><|im_end|>{SAY}", {"special": False}),
}  # fmt: skip

# name: (kind, row, words of the refusal) and perhaps options of the data section
REFUSED = {
    "kind of another form": ("prompt", talk(U, A), "data.kind='chat'"),
    "a text": ("chat", {"text": "a b"}, "data.kind='text' (kind=text)"),
    "names nobody knows": ("prompt", {"ask": "a", "say": "b"}, "prompt=FIELD"),
    "names that others use": (
        "prompt", {"question": "a", "answer": "b"}, "prompt=question,response=answer behind"),
    "names that others use, as a chat": (
        "chat", {"id": 1, "query": "a", "reply": "b"}, "dict(prompt='query', response='reply')"),
    "an unknown role": (
        "chat", talk(U, {"role": "gpt", "content": "b"}), "data.roles={'gpt': 'assistant'}"),
    "a role without a map": ("chat", talk(U, A, {"role": "function", "content": "x"}), "'tool'"),
    "an image": (
        "chat", talk(U | {"content": [{"type": "image_url", "image_url": "x"}]}, A), "only text"),
    "a column of images": ("chat", talk(U, A, images=["x.png"]), "only text is trained"),
    "an empty turn": ("chat", talk(U, said(""), U, A), "messages[1]': got an empty assistant turn"),
    "nothing but empty turns": ("chat", talk(U, said(" ")), "empty assistant turns"),
    "no assistant": ("chat", talk(U), "an assistant turn"),
    "a trained user": ("chat", talk(U | {"train": True}, A), "user train"),
    "a mask inside of a message": (
        "chat", talk(U, A | {"train_detail": [{"begin_offset": 0}]}), "train_detail"),
    "a mask beside messages": ("chat", talk(U, A, loss_mask=[0, 1]), "field 'loss_mask'"),
    "a list as a mask": ("chat", talk(U, A | {"loss_mask": [1, 0]}), "messages[1].loss_mask"),
    "masks and loss=all": (
        "chat", talk(U, A | {"weight": 0}, U, A), "message 1 has the weight 0.0", {"loss": "all"}),
    "two systems": ("chat", talk(SYS, U, A, system="Be bad"), "none beside a system message"),
    "two kinds of reasoning": (
        "chat", talk(U, said("Yo", thinking="a", reasoning="b")), "thinking and reasoning"),
    "arguments that are no JSON": (
        "chat", talk(U, calls(arguments="{at: sky}")), "tool_calls[0].function.arguments"),
    "a call without a name": ("chat", talk(U, CALLS | {"tool_calls": [{}]}), "function's name"),
    "a call of the user": ("chat", talk(U | {"tool_calls": [CALL]}, A), "calls of the assistant"),
    "tools without a name": ("chat", talk(U, A, tools=[{}]), "field 'tools[0]'"),
    "tools that are no list": ("chat", talk(U, A, tools="look"), "a list of objects"),
    "half a character in a call": (
        "chat", talk(U, calls(arguments={"at": "\ud83d"})), "half a character"),
    "half a character in a tool": (
        "chat", talk(U, A, tools=[TOOL | {"x": "\ud83d"}]), "half a character"),
    "a form that does not fit": (
        "prompt", talk(U, A), "data.form: got 'sharegpt'", {"form": "sharegpt"}),
    "a form that the row lacks": ("chat", talk(U, A), "'instruction'", {"form": "alpaca"}),
    "history as text": (
        "prompt", {"instruction": "a", "output": "b", "history": [["c", "d"]]}, "data.kind='chat'"),
    "arguments of a template per row": (
        "chat", talk(U, A, chat_template_kwargs={"a": 1}), "data.template_args"),
    "template arguments and no messages": (
        "prompt", {"prompt": "a", "response": "b"}, "no row has messages",
        {"template_args": {"enable_thinking": False}}),
    "a prompt that ends with the assistant": (
        "prompt", {"prompt": [U, A], "response": "b"}, "ends with an assistant message"),
    "a speaker's name": ("chat", talk(U | {"name": "Ann"}, A), "the name of message 0"),
    "a name that is no text": ("chat", talk(U | {"name": 7}, A), "field 'messages[0].name'"),
    "noncharacters": ("chat", talk(U | {"content": "\ufdd2"}, A), "noncharacter"),
}  # fmt: skip


def load(tmp_path, bpe, kind, row, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    options = {"chat_template": FULL, **options}
    source = {"name": "jsonl", "path": str(path), "tokenizer": bpe, "max_tokens": 256}
    return prepare.load(**source, kind=kind, **options)


def marked(example, tokenizer):
    edges = np.flatnonzero(np.diff(example.weights > 0)) + 1
    pieces = []
    for index in np.split(np.arange(len(example.tokens)), edges):
        text = tokenizer.decode(example.tokens[index])
        pieces.append(f"⟦{text}⟧" if example.weights[index[0]] > 0 else text)
    return "".join(pieces)


@pytest.mark.parametrize("shape", RENDERED.values(), ids=RENDERED.keys())
def test_rendered_with_the_right_mask(shape, tmp_path, bpe):
    kind, row, expected, *options = shape
    data = load(tmp_path, bpe, kind, row, **dict(*options))
    assert [marked(data.store[i], bpe) for i in range(len(data.store))] == [expected]
    assert set(data.store[0].weights) <= {0.0, 1.0}


@pytest.mark.parametrize("shape", REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_name(shape, tmp_path, bpe):
    kind, row, words, *options = shape
    with pytest.raises(ValueError, match=r"got|message|prompt") as error:
        load(tmp_path, bpe, kind, row, **dict(*options))
    assert words in str(error.value)
    assert "data." in str(error.value) or "rows.jsonl:1" in str(error.value)


def test_each_turn_is_an_example(tmp_path, bpe):
    data = load(tmp_path, bpe, "chat", talk(U, A, U, said("Bye")), turns="each")
    assert [marked(data.store[i], bpe) for i in range(2)] == [
        PLAIN,
        f"{ASK}<|im_start|>assistant:Yo<|im_end|>{ASK}<|im_start|>assistant:⟦Bye<|im_end|>⟧",
    ]


def test_forms_unread_columns_and_stops_are_counted(tmp_path, bpe):
    row = {"instruction": "Hi", "output": "Yo", "weight": 3.5, "id": None}
    data = load(tmp_path, bpe, "chat", row)
    assert data.forms == {"alpaca": 1}
    assert data.unread == {"weight": 1}
    assert data.turns == {"turns": 1, "ended": 1}


def test_keys_of_messages_that_the_template_does_not_read_are_counted(tmp_path, bpe):
    row = talk(U | {"mood": "glad"}, A | {"tool_call_id": "1", "mood": "sad"})
    assert load(tmp_path, bpe, "chat", row).unread == {"messages.mood": 1}
    prompt = {"prompt": [U | {"mood": "glad"}], "response": [A], "url": "x"}
    assert load(tmp_path, bpe, "prompt", prompt).unread == {"messages.mood": 1, "url": 1}


LINES = FULL.replace(":'", "\\n'")  # the header of a turn ends in a line end
CODE = said("    if x")


@pytest.mark.parametrize(
    ("kind", "row", "learned"),
    [
        ("prompt", {"prompt": "the ques", "response": "tion"}, "the qu⟦estion<|eos|>⟧"),
        ("prompt", {"prompt": "It costs ", "response": "four"}, "It costs⟦ four<|eos|>⟧"),
        ("prompt", {"prompt": [U], "response": [CODE]}, "assistant⟦\n    if x<|im_end|>⟧"),
        ("chat", talk(U, CODE), "assistant⟦\n    if x<|im_end|>⟧"),
        ("prompt", {"prompt": "It costs", "response": " four"}, None),
        ("prompt", {"prompt": "", "response": "four"}, None),
        ("prompt", {"prompt": [U], "response": "if x"}, None),
        ("chat", talk(U, said(" \U0001f600 x")), None),
    ],
)
def test_an_answer_inside_a_token_of_its_prompt_is_counted(kind, row, learned, tmp_path, bpe):
    data = load(tmp_path, bpe, kind, row, chat_template=LINES)
    assert data.count["answer that begins inside a token of its prompt"] == bool(learned)
    assert marked(data.store[0], bpe).endswith(learned or "⟧")


@pytest.mark.parametrize(("prompt", "lost"), [("", 1), ("a:", 0)])
def test_an_answer_that_nothing_is_before_is_counted(prompt, lost, tmp_path, bpe):
    row = {"prompt": prompt, "response": "b c"}
    data = load(tmp_path, bpe, "prompt", row)
    assert data.count["first token of an answer"] == lost
    everything = load(tmp_path, bpe, "prompt", row, loss="all")
    assert everything.count["first token of an answer"] == 0


def test_a_text_that_begins_with_bos_gets_one(bpe):
    class Twice(type(bpe)):
        """The same tokenizer, which puts bos in front of every text."""

        def _parser(self, *, special):
            from tokenizers import processors

            backend = super()._parser(special=special)
            backend.post_processor = processors.TemplateProcessing(
                single="<|bos|> $A", special_tokens=[("<|bos|>", self.bos_id)]
            )
            return backend

    import copy

    twice = copy.copy(bpe)
    twice.__class__, twice._backend = Twice, copy.deepcopy(bpe._backend)
    assert twice.encode("<|bos|>a") == twice.encode("a")
    [found] = twice.encode_batch(["<|bos|>a"])
    assert found.ids == twice.encode("a")
    assert len(found.offsets) == len(found.ids)
