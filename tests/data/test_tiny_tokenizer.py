import json
import pathlib
import string

import jinja2
import pytest
import tokenizers

import ftjax
from configs import pretrain_tiny
from ftjax.data.sources import embedded
from ftjax.data.worlds import relations, skills
from scripts import make_tokenizer

FOLDER = pathlib.Path(ftjax.__file__).parent / "assets" / "tiny"


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def test_size_and_special_tokens(tokenizer):
    assert tokenizer.get_vocab_size() == make_tokenizer.VOCABULARY
    ids = [tokenizer.token_to_id(token) for token in make_tokenizer.SPECIAL]
    assert ids == list(range(5))
    config = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert config == make_tokenizer.describe()


@pytest.mark.parametrize("share", pretrain_tiny.SHARES, ids=lambda s: s[2]["domain"])
def test_rows_round_trip_and_have_the_stated_length(tokenizer, share):
    _, stated, options = share
    lengths = []
    for row in embedded.make(**options)[:300]:
        text = row.get("text") or row["prompt"] + row["response"]
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text
        lengths.append(len(ids) + 2)
    assert sum(lengths) / 300 == pytest.approx(stated, rel=0.15)


@pytest.mark.parametrize("domain", ["facts", "reading", "skills", "languages"])
def test_a_response_has_the_same_tokens_alone_and_after_its_prompt(tokenizer, domain):
    for row in embedded.make(domain=domain, split="test")[:50]:
        parts = [tokenizer.encode(row[key]).ids for key in ("prompt", "response")]
        assert parts[0] + parts[1] == tokenizer.encode(row["prompt"] + row["response"]).ids


def test_letters_digits_and_answers_are_single_tokens(tokenizer):
    symbols = [f" {c}" for c in string.ascii_letters] + list(string.digits)
    words = [f" {v}" for r in relations.PEOPLE.values() for v in r.values if not v.isdigit()]
    for text in symbols + words:
        assert len(tokenizer.encode(text).ids) == 1, text
    assert len(tokenizer.encode("1947").ids) == 4


def test_any_bytes_are_encoded(tokenizer):
    text = "naïve \u2603 \U0001f600\t\x00"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_training_is_deterministic():
    texts = [row["text"] for row in embedded.make(domain="patterns", rows=300)]
    one, two = (make_tokenizer.train(texts, 400).to_str() for _ in range(2))
    assert one == two
    assert json.loads(one)["model"]["vocab"]["<|pad|>"] == 0


def test_the_chat_template_marks_each_message():
    template = make_tokenizer.CHAT_TEMPLATE
    for tag in ("{% generation %}", "{% endgeneration %}"):
        template = template.replace(tag, "")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    render = jinja2.Environment().from_string(template).render
    start = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render(messages=messages) == start + "Yes<|im_end|>\n"
    assert render(messages=messages[:1], add_generation_prompt=True) == start
    inner = make_tokenizer.CHAT_TEMPLATE.split("{% generation %}")[1].split("{% endgeneration %}")[
        0
    ]
    assert inner == "{{ message['content'] + '<|im_end|>' }}"


def test_nothing_held_out_is_in_the_mixture():
    shares, *_ = zip(*pretrain_tiny.SHARES, strict=True)
    for stage, own in enumerate(zip(*shares, strict=True), 1):
        assert sum(own) == pytest.approx(1.0)
        check_parts(pretrain_tiny.mixture(stage, pretrain_tiny.TOKENS))


def check_parts(parts):
    for entry in parts:
        theirs = ("name", "weight", "label", "kind")  # keys of the mixture, not of the source
        options = {k: v for k, v in entry.items() if k not in theirs}
        assert options.get("split", "train") == "train"
        rows = embedded.make(**options)
        for row in rows[:200]:
            assert row.get("skill", "copy") in skills.BASE
            assert row.get("language", 0) < 4
        if options["domain"] == "facts":
            assert "facts-base/train" in rows.where(0)
