import json

import pytest

from ftjax.data import chat, encode, tokenizer_files

DIALOG = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye."},
    {"role": "assistant", "content": "See you."},
]
# What most published templates look like: no tag, eos after each answer.
PLAIN = (
    "{% for m in messages %}{% if m.role == 'user' %}[Q]{{ m.content }}[A]"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)


def parts(template, messages):
    text, spans = template.spans(messages)
    return [text[span.start : span.end] for span in spans]


def test_built_in_template(bpe):
    template = chat.find("chatml", bpe)
    assert parts(template, DIALOG) == ["Hello.<|im_end|>", "See you.<|im_end|>"]
    prompt = template.render(DIALOG[:1], add_generation_prompt=True)
    assert template.render(DIALOG).startswith(prompt + "Hello.")


def test_template_without_the_tag_uses_prefixes():
    template = chat.Template(PLAIN, eos_token="</s>")
    assert not template.has_tag
    assert parts(template, DIALOG) == ["Hello.</s>", "See you.</s>"]


def test_eos_at_the_very_end_only_belongs_to_the_last_turn():
    source = PLAIN.replace(" + eos_token", " + '|'") + "{{ eos_token }}"
    source = source.replace("{{ eos_token }}", "{% if not add_generation_prompt %}</s>{% endif %}")
    template = chat.Template(source, eos_token="</s>")
    assert parts(template, DIALOG) == ["Hello.|", "See you.|</s>"]


def test_template_that_rewrites_earlier_turns_is_refused():
    source = PLAIN.replace("m.content + eos", "(m.content if loop.last else '-') + eos")
    with pytest.raises(chat.TemplateError, match=r"message 1 the same way.*generation"):
        chat.Template(source, eos_token="</s>").spans(DIALOG)


def test_template_that_prints_no_answer_is_refused():
    source = "{% for m in messages %}{{ m.role }}{% generation %}{% endgeneration %}{% endfor %}"
    with pytest.raises(chat.TemplateError, match="renders no assistant text"):
        chat.Template(source).spans(DIALOG)


def test_whitespace_control_and_filters_around_the_tag():
    source = """
    {%- for m in messages %}
        {%- if m.role == 'assistant' -%}
            {%- generation -%} {{ m.content | trim }}| {%- endgeneration -%}
        {%- else %}{{ m.content }}>{% endif %}
    {%- endfor %}"""
    template = chat.Template(source)
    assert template.render(DIALOG) == "Hi.>Hello.|Bye.>See you.|"
    assert parts(template, DIALOG) == ["Hello.|", "See you.|"]


def test_tojson_keeps_text_and_raise_exception_refuses():
    assert chat.Template("{{ messages | tojson }}").render([{"content": "<é>"}]) == (
        '[{"content": "<é>"}]'
    )
    with pytest.raises(chat.TemplateError, match="no system role"):
        chat.Template("{{ raise_exception('no system role') }}").render(DIALOG)


def test_templates_cannot_reach_out_of_the_sandbox():
    source = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(chat.TemplateError, match="unsafe"):
        chat.Template(source).render(DIALOG)


def test_find_never_guesses(bpe, tmp_path):
    class Bare:
        bos_token = eos_token = chat_template = None

        def token_id(self, token):
            return None

    with pytest.raises(ValueError, match=r"data\.chat_template: got None.*'chatml'"):
        chat.find(None, Bare())
    with pytest.raises(ValueError, match=r"expected a tokenizer with the token '<\|im_start\|>'"):
        chat.find("chatml", Bare())
    with pytest.raises(ValueError, match=r"got 'chatlm'.*did you mean 'chatml'"):
        chat.find("chatlm", bpe)
    with pytest.raises(ValueError, match=r"data\.chat_template: line 1"):
        chat.find("{% for %}", bpe)
    (tmp_path / "mine.jinja").write_text(PLAIN)
    assert chat.find(str(tmp_path / "mine.jinja"), bpe).source == PLAIN
    assert chat.find(None, bpe).source == bpe.chat_template


def test_message_weights_scale_their_own_turn(bpe):
    silent = [*DIALOG[:1], DIALOG[1] | {"weight": 0}, DIALOG[2], DIALOG[3] | {"weight": 0.5}]
    template = chat.find("chatml", bpe)
    rows = [{"messages": each, "weight": 2.0} for each in (DIALOG, silent)]
    plain, weighted = encode.examples(rows, bpe, template=template)
    assert plain.tokens.tolist() == weighted.tokens.tolist()
    assert set(plain.weights) == {0.0, 2.0}
    trained = bpe.decode(weighted.tokens[weighted.weights > 0])
    assert trained == "See you.<|im_end|>"
    assert set(weighted.weights) == {0.0, 1.0}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("source", [PLAIN, "{{ bos_token }}" + PLAIN], ids=["without", "with"])
def test_the_first_token_is_what_the_template_prints(bpe, source, special, tmp_path):
    """Also where the tokenizer would put a bos of its own before every text."""
    bpe.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    name, number = bpe.bos_token, bpe.bos_id
    bos, text = (
        {kind: {"id": x, "type_id": 0}} for kind, x in (("SpecialToken", name), ("Sequence", "A"))
    )
    processor = {
        "type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": processor}))
    found = tokenizer_files.load(tmp_path)
    assert found.encode("Hi.")[0] == number
    template = chat.find(source, found)
    [example] = encode.examples(
        [{"messages": DIALOG, "weight": 1.0}], found, template=template, special=special
    )
    assert example.tokens.tolist().count(number) == (source != PLAIN)
    assert found.decode(example.tokens) == template.render(DIALOG)
