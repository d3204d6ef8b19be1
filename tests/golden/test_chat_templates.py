"""Chat templates against Hugging Face: text, ids, assistant masks and refusals."""

import re

import pytest

from ftjax.data import chat, encode, tokenizer_files
from tests.golden import reference as files_of


@pytest.fixture(scope="module")
def reference(golden):
    return files_of.given(golden / "data/chat.json")


@pytest.fixture(scope="module")
def bpe(golden):
    return tokenizer_files.load(golden / "data/tokenizer")


def named(reference, bpe, name):
    return chat.find(reference["templates"][name], bpe)


def test_text_and_prompt_text(reference, bpe):
    for case in reference["results"]:
        messages = reference["conversations"][case["conversation"]]
        template = named(reference, bpe, case["template"])
        if "error" in case:
            with pytest.raises(chat.TemplateError, match=case["error"].partition(": ")[2]):
                template.render(messages)
            continue
        assert template.render(messages) == case["text"]
        prompt = template.render(messages[:-1], add_generation_prompt=True)
        assert prompt == case["prompt_text"]


def test_ids_and_assistant_masks(reference, bpe):
    for case in reference["results"]:
        if "error" in case:
            continue
        row = {"messages": reference["conversations"][case["conversation"]], "weight": 1.0}
        template = named(reference, bpe, case["template"])
        [example] = encode.examples([row], bpe, loss="completion", template=template)
        assert example.tokens.tolist() == case["input_ids"]
        assert example.weights.tolist() == case["assistant_masks"]


def test_templates_without_the_tag_find_the_same_turns(reference, bpe):
    """Strip the tags: the fallback must give the same mask or say that it cannot."""
    agreed = 0
    for case in reference["results"]:
        source = reference["templates"][case["template"]]
        stock = chat.find(_without_tags(source), bpe)
        messages = reference["conversations"][case["conversation"]]
        if "error" in case or case["template"].startswith("qwen2_5"):
            # The reference template for Qwen 2.5 also trains the newline after the role header,
            # which belongs to the generation prompt.
            continue
        try:
            found = stock.spans(messages)
        except chat.TemplateError:
            continue  # it says that it cannot tell, which is an answer too
        assert found == named(reference, bpe, case["template"]).spans(messages)
        agreed += 1
    assert agreed


def _without_tags(source):
    source = re.sub(r"(\{%-?\s*)generation", r"\1if true", source)
    return re.sub(r"(\{%-?\s*)endgeneration", r"\1endif", source)
