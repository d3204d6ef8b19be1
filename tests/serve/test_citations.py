"""Retrieval in front of the endpoint: what was read is cited in the answer."""

import json

import pytest

from ftjax.serve import cited
from tests.serve.conftest import LENGTH, stream

TEXTS = {"a": "it is 3.", "b": "what is 17. it is 4 of them."}


@pytest.fixture
def citing(endpoint, monkeypatch, tmp_path):
    """The endpoint with two passages in front of it."""
    pytest.importorskip("bm25s", reason="the extra `rag` is not installed")
    rows = [json.dumps(dict(id=name, text=text)) for name, text in TEXTS.items()]
    (tmp_path / "docs.jsonl").write_text("\n".join(rows))
    count = lambda text: len(endpoint.parts.tokenizer.encode(text))
    found = cited.open_source(str(tmp_path / "docs.jsonl"), tokens=64, k=2, count=count)
    monkeypatch.setattr(endpoint.service, "source", found)
    return endpoint


def span(name):
    return dict(id=name, document=name, start=0, end=len(TEXTS[name]))


def test_answers_cite_the_passages_that_were_read(citing):
    asked = "17 of them"
    choice = citing.complete(asked).json()["choices"][0]
    assert choice["citations"] == [span("b")]
    [wanted] = citing.wanted("law", [f"Text: {TEXTS['b']}\n{asked}"])
    assert choice["text"] == wanted.text
    last = stream(citing, "/v1/completions", model="law", prompt=asked, max_tokens=4)[-1]
    assert last["choices"][0]["citations"] == [span("b")]
    ids = citing.complete([5, 6, 7]).json()["choices"][0]
    assert ids["citations"] == []


def test_the_openai_client_sees_citations_of_a_chat(citing):
    openai = pytest.importorskip("openai", reason="the extra `dev` is not installed")
    client = openai.OpenAI(base_url=citing.url + "/v1", api_key="none", max_retries=0)
    said = [{"role": "user", "content": "17 of them"}]
    found = client.chat.completions.create(model="law", messages=said, max_tokens=4, temperature=0)
    assert found.choices[0].citations == [span("b")]
    assert found.usage.prompt_tokens > len(citing.parts.tokenizer.encode("17 of them"))
    pieces = client.chat.completions.create(
        model="law", messages=said, max_tokens=4, temperature=0, stream=True
    )
    assert list(pieces)[-1].choices[0].citations == [span("b")]


def test_passages_without_room_are_left_out(citing):
    choice = citing.complete("17 of them", max_tokens=LENGTH - 12).json()["choices"][0]
    assert choice["citations"] == []


def test_a_template_without_its_places_is_refused():
    with pytest.raises(ValueError, match=r"expected \{passages\} and \{prompt\} in it"):
        cited.open_source("docs", tokens=64, k=2, count=len, template="{passages}")
