import json

import pytest

from ftjax.data import chat
from ftjax.run import prompting


class Words:
    """A tokenizer of words; the ids are their lengths, and 1 is put in front when asked."""

    chat_template = None
    bos_token, eos_token, eos_id = "<s>", "</s>", 2

    def encode(self, text, *, add_special_tokens=True):
        return [1] * add_special_tokens + [len(word) for word in text.split()]

    def token_id(self, token):
        return {"<|im_start|>": 5, "<|im_end|>": 6}.get(token)


@pytest.fixture
def template():
    return chat.find("chatml", Words())


def dialog(**options):
    encode = prompting.make_encode(Words(), template=options.pop("template", None))
    return prompting.Dialog(encode, **{"has_template": False, "max_tokens": 100, **options})


def converse(lines, answers, dialog, interrupted=None):
    """Run a chat; returns what was written and the prompts that were answered."""
    lines, written, prompts = iter(lines), [], []

    def read():
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    def answer(prompt, number):
        prompts.append(json.loads(json.dumps(prompt)))
        for piece in answers[number]:
            if piece == interrupted:
                raise KeyboardInterrupt
            yield piece

    prompting.converse(dialog, answer, read=read, write=written.append)
    return "".join(written), prompts


def user(text):
    return {"role": "user", "content": text}


def test_a_chat_remembers(template):
    lines = ["hi", "", "and?", "/quit", "never"]
    talk = dialog(template=template, has_template=True, system="be kind")
    written, prompts = converse(lines, [["he", "llo"], ["bye"]], talk)
    assert written == "hello\nbye\n"
    system = {"role": "system", "content": "be kind"}
    said = {"role": "assistant", "content": "hello"}
    assert prompts == [[system, user("hi")], [system, user("hi"), said, user("and?")]]


def test_reset_forgets(template):
    talk = dialog(template=template, has_template=True)
    written, prompts = converse(["a", "/reset", "b"], [["x"], ["y"]], talk)
    assert prompts == [[user("a")], [user("b")]]
    assert "(forgotten)" in written


def test_an_unknown_command_is_not_said():
    written, prompts = converse(["/rest", "a"], [["x"]], dialog())
    assert prompts == ["a"]
    assert "got '/rest'" in written
    assert "/reset" in written


def test_an_interrupt_keeps_what_was_said():
    written, prompts = converse(["a", "b"], [["x", "!", "z"], ["y"]], dialog(), interrupted="!")
    assert written == "x (interrupted)\ny\n"
    assert prompts == ["a", "axb"]


def test_without_a_template_the_text_is_continued():
    _, prompts = converse(["1 ", "2"], [[" a "], ["b"]], dialog(system="s:"))
    assert prompts == ["s:1", "s:1 a 2"]


def test_the_oldest_turns_go_when_it_grows_too_long(template):
    talk = dialog(template=template, has_template=True, max_tokens=6)
    _, prompts = converse(["one", "two", "three"], [["a"], ["b"], ["c"]], talk)
    for prompt in prompts:
        assert len(talk.encode(prompt)) <= 6
    assert prompts[-1][-1] == user("three")
    assert len(prompts[-1]) < 5


def test_strings_messages_and_templates(template):
    plain = prompting.make_encode(Words(), template=None)
    assert plain("a bb") == [1, 1, 2]
    with pytest.raises(ValueError, match="pass --chat_template"):
        plain([user("a")])
    encode = prompting.make_encode(Words(), template=template)
    assert encode("a bb") == [1, 1, 2]
    rendered = template.render([user("a bb")], add_generation_prompt=True)
    ids = Words().encode(rendered, add_special_tokens=False)
    assert encode([user("a bb")]) == ids
    assert prompting.make_encode(Words(), template=template, wrap=True)("a bb") == ids


def test_templates_are_found():
    assert prompting.find_template(Words(), None) is None
    assert "im_start" in prompting.find_template(Words(), "chatml").source


def test_answers_end_at_known_ends_of_turns():
    assert prompting.stop_ids(Words()) == (2, 6)


def test_prompts_files(tmp_path):
    text, rows, bad = (tmp_path / name for name in ("a.txt", "a.jsonl", "bad.jsonl"))
    text.write_text("one\n\ntwo {x}\n")
    asked = prompting.PromptRequest
    places = lambda path, *lines: [f"{path}:{n}" for n in lines]
    first, third = places(text, 1, 3)
    assert prompting.read_prompts(text) == [
        asked("one", None, first), asked("two {x}", None, third)
    ]  # fmt: skip
    messages = [user("hi")]
    given = [{"prompt": "one"}, {"messages": messages, "adapter": "law"}]
    rows.write_text("\n".join(map(json.dumps, given)) + "\n")
    first, second = places(rows, 1, 2)
    assert prompting.read_prompts(rows) == [
        asked("one", None, first), asked(messages, "law", second)
    ]  # fmt: skip
    bad.write_text('{"prompt": "x"}\n{"question": "y"}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl:2: got .*question.*expected an object"):
        prompting.read_prompts(bad)
    bad.write_text('{"prompt": "x", "adapter": 3}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl:1: got adapter=3; expected a name"):
        prompting.read_prompts(bad)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"prompt": "x"', "a line that is cut off"),
        ('{"prompt": "x"}'.encode("utf-16"), "iconv -f utf-16 -t utf-8"),
        (b'{"prompt": null}', "expected an object with prompt or messages"),
        (b'{"prompt": 5}', "expected text or a list of messages"),
        (b'{"prompt": "\\ud83d"}', "half a character"),
        (b'{"messages": [{"role": "gpt", "content": "x"}]}', "messages[0].role"),
        (b"", "take it out of --prompts_file"),
    ],
)
def test_prompts_files_that_are_not_in_order(content, words, tmp_path):
    (tmp_path / "q.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match="got") as error:
        prompting.read_prompts(tmp_path / "q.jsonl")
    assert words in str(error.value)
    assert str(tmp_path / "q.jsonl") in str(error.value)


def test_a_prompt_that_cannot_be_answered_is_named_by_its_line(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"prompt": "a bbb"}\n\n{"prompt": "a bb ccc dddd"}\n')
    asked = [*prompting.read_prompts(tmp_path / "q.jsonl"), prompting.PromptRequest("a")]
    words, encode = Words(), prompting.make_encode(Words(), template=None)
    encoded = lambda own, most: prompting.encoded(own, encode, words, most=most, new=3)
    assert encoded(asked, 8) == [[1, 1, 3], [1, 1, 2, 3, 4], [1, 1]]
    with pytest.raises(ValueError, match=r"q\.jsonl:3: got a prompt of 5 tokens .* at most 7 toge"):
        encoded(asked, 7)
    with pytest.raises(ValueError, match=r"^--prompt: got a prompt of 2 tokens"):
        encoded(asked[2:], 4)
    (tmp_path / "q.txt").write_text("a\n\nb c d e f\n")
    with pytest.raises(ValueError, match=r"q\.txt:3: got a prompt of 6 tokens"):
        encoded(prompting.read_prompts(tmp_path / "q.txt"), 8)
    (tmp_path / "q.jsonl").write_text(json.dumps({"messages": [user("a")]}))
    with pytest.raises(ValueError, match=r"q\.jsonl:1: prompt: got messages.*--chat_template"):
        encoded(prompting.read_prompts(tmp_path / "q.jsonl"), 8)


def test_prompts_files_in_other_forms(tmp_path):
    lines = [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {"conversations": [{"from": "human", "value": "hi"}]},
        {"prompt": [user("hi")], "tools": [{"name": "look"}], "system": "be kind"},
    ]
    (tmp_path / "q.json").write_text(json.dumps(lines))
    first, second, third = prompting.read_prompts(tmp_path / "q.json")
    assert first.prompt == second.prompt == [user("hi")]
    assert [each["role"] for each in third.prompt["messages"]] == ["system", "user"]
    assert third.prompt["tools"][0]["function"] == {"name": "look"}
    (tmp_path / "q.txt").write_bytes(b"\xef\xbb\xbfhi\n")
    assert [each.prompt for each in prompting.read_prompts(tmp_path / "q.txt")] == ["hi"]
    (tmp_path / "q.csv").write_text("prompt,adapter\nhi,\nyou,law\n")
    assert [each[:2] for each in prompting.read_prompts(tmp_path / "q.csv")] == [
        ("hi", None), ("you", "law")
    ]  # fmt: skip
    (tmp_path / "q.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"q\.txt: got no prompt; expected one a line"):
        prompting.read_prompts(tmp_path / "q.txt")
    with pytest.raises(ValueError, match=r"--prompts_file: got .*nothing\.txt"):
        prompting.read_prompts(tmp_path / "nothing.txt")


def test_tools_and_begun_answers_reach_the_template(template):
    encode = prompting.make_encode(Words(), template=template)
    begun = [user("a bb"), {"role": "assistant", "content": "ccc dddd"}]
    assert encode(begun)[-1] == 4
    assert len(encode(begun)) > len(encode(begun[:1]))
    shown = prompting.find_template(
        Words(), "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}"
        "{{ messages[-1].content }}{% if thinks %} yes{% endif %}", arguments={"thinks": True},
    )  # fmt: skip
    encode = prompting.make_encode(Words(), template=shown)
    assert encode({"messages": [user("a")], "tools": [{"name": "look"}]}) == [4, 1, 3]


def test_results_are_json_lines(tmp_path):
    prompting.write_results(tmp_path / "out.jsonl", ["a", [user("b")]], ["é", "y\nz"])
    rows = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    assert rows == [dict(prompt="a", text="é"), dict(prompt=[user("b")], text="y\nz")]
