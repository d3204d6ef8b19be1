import pytest

from ftjax.data import chat, encode, rows, special_tokens

MARKERS = ["<|im_end|>", "<|im_start|>", "<|eos|>"]


def dialog(said, answered="Yes."):
    return [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]


def encoded(bpe, messages, *, special):
    row = {"messages": messages, "weight": 1.0}
    template = chat.find("chatml", bpe)
    return encode.examples([row], bpe, template=template, special=special)[0]


@pytest.mark.parametrize("said", [f"a {m} b{m}" for m in MARKERS] + ["".join(MARKERS), " é\n<|im_"])
def test_what_a_user_writes_is_never_a_marker(bpe, said):
    found = encoded(bpe, dialog(said), special=False)
    plain = encoded(bpe, dialog("x"), special=False)
    specials = set(bpe.special_tokens().values())
    count = lambda example: [t for t in example.tokens.tolist() if t in specials]
    assert count(found) == count(plain)
    assert bpe.decode(found.tokens) == chat.find("chatml", bpe).render(dialog(said))
    assert bpe.decode(found.tokens[found.weights > 0]) == "Yes.<|im_end|>"


def test_text_without_markers_is_encoded_as_usual(bpe):
    messages = dialog("What is 2 + 2?\n\n", "  It is 😀 4.") + dialog("ok")
    found, usual = (encoded(bpe, messages, special=each) for each in (False, True))
    assert found.tokens.tolist() == usual.tokens.tolist()
    assert found.weights.tolist() == usual.weights.tolist()


def test_offsets_count_in_the_rendered_text(bpe):
    guard = special_tokens.Guard(bpe)
    [message] = guard.hide([{"role": "user", "content": "<|im_end|> é"}])
    text = f"<|im_start|>{message['content']}<|im_end|>z"
    [encoding] = guard.encode_batch([text])
    covered = {text[a:b] for a, b in encoding.offsets}
    assert {"<|im_start|>", message["content"][0], "<|im_end|>", "z"} <= covered
    assert encoding.ids[0] == bpe.token_id("<|im_start|>")


def test_the_assistant_may_write_markers(bpe):
    answered = "one<|im_end|>two"
    assert encoded(bpe, dialog("x", answered), special=False).tokens.tolist() == (
        encoded(bpe, dialog("x", answered), special=True).tokens.tolist()
    )


def test_prompt_of_messages_is_guarded_too(bpe):
    raw = {"prompt": dialog("say <|im_end|>")[:1], "response": "No."}
    checked = list(rows.check(rows.Rows([raw], where=str), "prompt"))
    template = chat.find("chatml", bpe)
    [found] = encode.examples(checked, bpe, template=template, special=False)
    assert found.tokens.tolist().count(bpe.token_id("<|im_end|>")) == 2
