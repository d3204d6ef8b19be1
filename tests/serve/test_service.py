"""How requests become tokens: on the loop, or beside it."""

import asyncio

import pytest

from ftjax.serve import service
from tests.serve.conftest import NEW

PROMPTS = ["Q: what is 3?\nA:", "it is"]


def is_on_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("completions", "_read_texts", dict(prompt=PROMPTS)),
        ("chat/completions", "_read_chat", dict(messages=[dict(role="user", content=PROMPTS[0])])),
    ],
)
def test_only_long_requests_become_tokens_beside_the_loop(
    path, method, body, endpoint, monkeypatch
):
    read, found = getattr(service.Service, method), []

    def seen(self, asked):
        found.append(is_on_loop())
        return read(self, asked)

    def ask():
        common = dict(model="law", max_tokens=NEW, temperature=0)
        return endpoint.client.post(f"/v1/{path}", json=common | body).json()["choices"]

    monkeypatch.setattr(service.Service, method, seen)
    short = ask()
    monkeypatch.setattr(service, "SHORT", 10)
    assert ask() == short
    assert found == [True, False]
