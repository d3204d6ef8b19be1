"""The endpoint over HTTP: texts, streams, limits, errors, clients that hang up."""

import json
import socket
import time

import pytest

from ftjax.serve import endpoints
from tests.serve.conftest import KEY, LENGTH, MAX_QUEUE, NEW, SLOTS, stream

PROMPTS = ["Q: what is 3?\nA:", "it is", "Q: what is 17, and 4?\nA:", "what what what"]


def error(response, status):
    assert response.status_code == status, response.text
    found = response.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    return found


@pytest.mark.parametrize("model", ["base", "law", "code"])
def test_greedy_texts_are_those_of_generate(model, endpoint):
    found = endpoint.complete(PROMPTS, model=model).json()
    wanted = endpoint.wanted(model, PROMPTS)
    assert [c["text"] for c in found["choices"]] == [answer.text for answer in wanted]
    ends = ["stop" if answer.finished else "length" for answer in wanted]
    assert [c["finish_reason"] for c in found["choices"]] == ends
    read, new = sum(len(a.prompt) for a in wanted), sum(len(a.tokens) for a in wanted)
    assert found["usage"] == dict(
        prompt_tokens=read, completion_tokens=new, total_tokens=read + new
    )
    assert found["object"], found["model"] == ("text_completion", model)


def test_models_differ(endpoint):
    texts = {
        endpoint.complete(PROMPTS, model=m).json()["choices"][0]["text"] for m in endpoint.models
    }
    assert len(texts) == 3


def test_sampled_texts_are_those_of_generate_with_the_seed(endpoint):
    drawing = dict(temperature=0.8, top_p=0.9)
    found = endpoint.complete(PROMPTS, seed=5, **drawing).json()["choices"]
    assert [c["text"] for c in found] == [
        a.text for a in endpoint.wanted("law", PROMPTS, **drawing)
    ]
    several = endpoint.complete(PROMPTS[0], seed=5, n=3, **drawing).json()["choices"]
    assert several[0]["text"] == found[0]["text"]
    assert len({c["text"] for c in several}) == 3
    assert [c["index"] for c in several] == [0, 1, 2]
    one, other = (endpoint.complete(PROMPTS[0], temperature=1).text for _ in range(2))
    assert one != other  # without a seed


def test_messages_go_through_the_template(endpoint):
    body = dict(model="law", messages=[dict(role="user", content=PROMPTS[0])])
    path, body = "/v1/chat/completions", body | dict(temperature=0, max_completion_tokens=NEW)
    found = endpoint.client.post(path, json=body).json()
    [wanted] = endpoint.wanted("law", PROMPTS[:1], chat=True)
    assert found["choices"][0]["message"]["content"] == wanted.text
    assert found["usage"]["prompt_tokens"] == len(wanted.prompt)
    parts = [dict(type="text", text=PROMPTS[0])]
    body["messages"] = [dict(role="user", content=parts)]
    assert endpoint.client.post(path, json=body).json()["choices"] == found["choices"]


def test_what_of_a_message_the_model_is_not_shown_is_refused(endpoint, monkeypatch):
    ask = lambda *said: endpoint.client.post(
        "/v1/chat/completions",
        json=dict(model="law", messages=said, temperature=0, max_completion_tokens=NEW),
    )
    asked, named = dict(role="user", content="a"), dict(role="user", content="a", name="Ann")
    answer = dict(role="assistant", content="b")
    for messages in ([named], [named, answer]):
        refused = ask(*messages)
        assert refused.status_code == 400
        assert "does not show the name of message 0" in refused.json()["error"]["message"]
    bare = endpoint.service.form._replace(template=None)
    monkeypatch.setattr(endpoint.service, "form", bare)
    [wanted] = endpoint.wanted("law", ["ab"])
    found = ask(asked, answer).json()["choices"][0]["message"]["content"]
    assert found == wanted.text
    refused = ask(named, answer)
    assert refused.status_code == 400
    assert "got 'name' of a message" in refused.json()["error"]["message"]


def test_token_ids_are_a_prompt(endpoint):
    ids = endpoint.parts.tokenizer.encode(PROMPTS[1])
    found = [endpoint.complete(p).json()["choices"][0]["text"] for p in (PROMPTS[1], ids, [ids])]
    assert len(set(found)) == 1


@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_stream_is_the_whole_answer_in_pieces(logprobs, endpoint, monkeypatch):
    # A reader that is slower than the engine gets several pieces as one: it is given time. Turns
    # are kept short, for on a fast machine two of them hold an answer.
    for engine in endpoint.service.engines:
        advance = engine._advance
        slow = lambda *, steps, go=advance: (time.sleep(0.02), go(steps=min(steps, 8)))[1]
        monkeypatch.setattr(engine, "_advance", slow)
    body = dict(model="code", prompt=PROMPTS[:2], max_tokens=40, temperature=0, logprobs=logprobs)
    whole = endpoint.client.post("/v1/completions", json=body).json()
    found = stream(endpoint, "/v1/completions", stream_options=dict(include_usage=True), **body)
    assert found[-1]["usage"] == whole["usage"]
    assert found[-1]["choices"] == []
    assert all(event["usage"] is None for event in found[:-1])
    for i, wanted in enumerate(whole["choices"]):
        own = [e["choices"][0] for e in found[:-1] if e["choices"][0]["index"] == i]
        assert len(own) > 2
        assert "".join(c["text"] for c in own) == wanted["text"]
        assert [c["finish_reason"] for c in own] == [None] * (len(own) - 1) + [
            wanted["finish_reason"]
        ]
        for field, x in (wanted["logprobs"] or {}).items():
            assert [each for c in own for each in c["logprobs"][field] or []] == x


def test_a_streamed_chat(endpoint):
    messages = [dict(role="system", content="it"), dict(role="user", content="what is 3?")]
    body = dict(model="law", messages=messages, temperature=0, max_tokens=NEW)
    whole = endpoint.client.post("/v1/chat/completions", json=body).json()["choices"][0]
    found = [e["choices"][0] for e in stream(endpoint, "/v1/chat/completions", **body)]
    assert found[0]["delta"] == dict(role="assistant", content="")
    said = "".join(choice["delta"].get("content", "") for choice in found)
    assert said == whole["message"]["content"]
    assert found[-1]["finish_reason"] == whole["finish_reason"]


def test_stop_strings_end_an_answer_and_are_left_out(endpoint):
    text = endpoint.complete(PROMPTS[0]).json()["choices"][0]["text"]
    stop = [text[9:13], "never"]
    found = endpoint.complete(PROMPTS[0], stop=stop).json()
    [wanted] = endpoint.wanted("law", PROMPTS[:1], until=tuple(stop))
    assert found["choices"][0]["text"] == wanted.text == text[: text.index(stop[0])]
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"]["completion_tokens"] == len(wanted.tokens)
    pieces = stream(
        endpoint, "/v1/completions", model="law", prompt=PROMPTS[0], temperature=0, max_tokens=NEW,
        stop=stop,
    )  # fmt: skip
    assert "".join(event["choices"][0]["text"] for event in pieces) == wanted.text


def test_logprobs(endpoint):
    best = endpoint.complete(PROMPTS[0], logprobs=3).json()["choices"][0]["logprobs"]
    assert {len(x) for x in best.values()} == {NEW}
    for token, logp, row in zip(
        best["tokens"], best["token_logprobs"], best["top_logprobs"], strict=True
    ):
        assert row[token] == logp == max(row.values()) <= 0
    assert endpoint.complete(PROMPTS[0], logprobs=0).json()["choices"][0]["logprobs"] == (
        best | dict(top_logprobs=None)
    )
    body = dict(
        model="law", messages=[dict(role="user", content="it")], temperature=0, max_tokens=3
    )
    path, more = "/v1/chat/completions", dict(logprobs=True, top_logprobs=2)
    [choice] = endpoint.client.post(path, json=body | more).json()["choices"]
    content = choice["logprobs"]["content"]
    assert [len(row["top_logprobs"]) for row in content] == [2] * 3
    assert "".join(row["token"] for row in content) == choice["message"]["content"]
    assert bytes(content[0]["bytes"]).decode() == content[0]["token"]


COMPLETION = dict(model="law", prompt="it")
WRONG = {
    "temperature": [3, -1, "1", True, 1e-9], "top_p": [0, 1.5], "max_tokens": [0, 1.5, "7"],
    "seed": [-1, 2**31], "stop": ["", [""], ["a"] * 17, 3], "n": [0, 1000], "stream": [1, "yes"],
    "logprobs": [-1, 21, True], "echo": [True, 0], "best_of": [2], "suffix": ["x"],
    "presence_penalty": [0.5], "logit_bias": [{"3": 1}], "prompt": [[], {}, 3, [1, "a"], [-1]],
    "model": [3, None], "stream_options": [3, {"x": 1}, {"include_usage": 1}], "temprature": [1],
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_named(field, endpoint):
    for value in WRONG[field]:
        found = error(
            endpoint.client.post("/v1/completions", json=COMPLETION | {field: value}), 400
        )
        assert found["param"] == field
        assert found["message"].startswith(f"{field}: got ")
        assert "expected " in found["message"]


CHAT = dict(model="law", messages=[dict(role="user", content="it")])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []), ("messages", [dict(role="us", content="it")]), ("messages", ["it"]),
        ("messages", [dict(role="user", content=[dict(type="image_url", image_url="x")])]),
        ("top_logprobs", 2), ("tools", [{"type": "function"}]), 
        ("response_format", {"type": "json"}),
        ("prompt", "it"),
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_chat_is_named(field, value, endpoint):
    body = CHAT | {field: value}
    assert error(endpoint.client.post("/v1/chat/completions", json=body), 400)["param"] == field


def test_an_unknown_field_comes_with_the_nearest(endpoint):
    found = error(endpoint.complete("it", temprature=1), 400)
    assert "did you mean 'temperature'?" in found["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"model": NaN}', b"[" * 5000, b"\xff", b'{"model": "\\ud800"}']
)
def test_what_is_no_json_object_is_refused(body, endpoint):
    headers = {"content-type": "application/json"}
    found = error(endpoint.client.post("/v1/completions", content=body, headers=headers), 400)
    assert found["message"].startswith("body: got ")


def test_other_refusals(endpoint):
    found = error(endpoint.complete("it", model="lww"), 404)
    assert (found["param"], found["code"]) == ("model", "model_not_found")
    assert "did you mean 'law'?" in found["message"]
    found = error(endpoint.complete("it", max_tokens=LENGTH), 400)
    assert found["code"] == "context_length_exceeded"
    assert error(endpoint.complete("it " * 200), 400)["code"] == "context_length_exceeded"
    assert "bytes" in error(endpoint.complete("it " * 10_000), 413)["message"]
    assert error(endpoint.client.get("/v1/nothing"), 404)["message"].startswith("GET /v1/nothing")
    error(endpoint.client.get("/v1/completions"), 405)
    plain = endpoint.client.post("/v1/completions", content=json.dumps(COMPLETION))
    assert error(plain, 415)["message"].startswith("content-type: ")
    assert error(endpoint.complete(["it"] * 20, n=10), 400)["param"] == "n"


def test_a_queue_that_is_full_says_so(endpoint):
    response = endpoint.complete(["it"] * (SLOTS + MAX_QUEUE + 1))
    found = error(response, 429)
    assert (found["type"], found["code"]) == ("rate_limit_error", "queue_full")
    assert int(response.headers["retry-after"]) > 0
    many = endpoint.complete(["it"] * (SLOTS + MAX_QUEUE)).json()["choices"]
    assert len({choice["text"] for choice in many}) == 1


def busy(served):
    [engine] = served.service.engines
    return engine.busy


def until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_hangs_up_frees_its_slots(is_stream, endpoint):
    before = endpoint.service.disconnects
    [engine] = endpoint.service.engines
    ended, cancelled = engine.counts.ended, engine.counts.cancelled
    body = dict(
        model="base", prompt=["it"] * SLOTS, max_tokens=LENGTH - 10, temperature=1, n=3,
        stream=is_stream,
    )  # fmt: skip
    content = json.dumps(body).encode()
    host, port = endpoint.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            + f"content-length: {len(content)}\r\n\r\n".encode() + content
        )  # fmt: skip
        until(lambda: busy(endpoint) == SLOTS)
    until(lambda: endpoint.service.disconnects == before + 1 and busy(endpoint) == 0)
    assert engine.waiting == 0
    assert engine.counts.cancelled > cancelled
    assert engine.counts.ended - ended + engine.counts.cancelled - cancelled == 3 * SLOTS
    assert endpoint.complete("it").status_code == 200


def test_a_key_guards_what_costs(endpoint):
    from starlette.testclient import TestClient

    app = endpoints.make(endpoint.service, api_key=KEY)  # in process; its engines run elsewhere
    client = TestClient(app)
    assert error(client.get("/v1/models"), 401)["code"] == "invalid_api_key"
    wrong = client.get("/v1/models", headers={"authorization": b"Bearer \xe9"})
    error(wrong, 401)
    right = client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"})
    assert len(right.json()["data"]) == 3
    assert client.get("/health").status_code == client.get("/").status_code == 200


def test_the_page_brings_all_it_needs(endpoint):
    response = endpoint.client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "http://" not in response.text
    assert "https://" not in response.text


def test_the_openai_client(endpoint):
    openai = pytest.importorskip("openai", reason="the extra `dev` is not installed")
    client = openai.OpenAI(base_url=endpoint.url + "/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["base", "law", "code"]
    [wanted] = endpoint.wanted("code", PROMPTS[:1])
    own = dict(model="code", prompt=PROMPTS[0], max_tokens=NEW, temperature=0)
    whole = client.completions.create(**own)
    assert whole.choices[0].text == wanted.text
    assert whole.usage.completion_tokens == len(wanted.tokens)
    pieces = client.completions.create(stream=True, **own)
    assert "".join(piece.choices[0].text for piece in pieces) == wanted.text
    [wanted] = endpoint.wanted("code", PROMPTS[:1], chat=True)
    messages = [{"role": "user", "content": PROMPTS[0]}]
    own = dict(model="code", messages=messages, max_tokens=NEW, temperature=0)
    said = client.chat.completions.create(logprobs=True, top_logprobs=2, **own).choices[0]
    assert said.message.content == wanted.text
    assert said.logprobs.content[0].top_logprobs[0].logprob == said.logprobs.content[0].logprob
    pieces = client.chat.completions.create(stream=True, **own)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == wanted.text
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**own | dict(temperature=9))
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nobody", prompt="it")


# -- answers from documents ------------------------------------------------------------------------
