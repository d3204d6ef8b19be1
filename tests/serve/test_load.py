"""What an endpoint tells of itself, and the load that the benchmark puts on it, small."""

import argparse
import asyncio
import os

from scripts import bench_serve
from tests.serve.conftest import SLOTS

PROMPTS = [[5, 6, 7], [8, 9, 10, 11]]
TEXTS = ["Q: what is 3?\nA:", "it is", "what what what"]
ARGS = argparse.Namespace(prompt=8, new=40, seconds=0.5)


def address(endpoint):
    host, _, port = endpoint.url.rpartition("//")[2].rpartition(":")
    return host, int(port)


def test_tokens_of_a_load_are_those_of_whole_answers(endpoint):
    short = argparse.Namespace(prompt=8, new=4, seconds=2.0)
    for prompts in TEXTS[:1], TEXTS:  # nothing compiles in the time that is measured
        endpoint.complete(prompts, model="base")
    before = asyncio.run(bench_serve.metrics(address(endpoint)))
    found = asyncio.run(
        bench_serve.load(os.getpid(), address(endpoint), PROMPTS, clients=3, args=short)
    )
    after = asyncio.run(bench_serve.metrics(address(endpoint)))
    gained = lambda name: after[name] - before[name]
    assert (found["clients"], found["lost"]) == (3, 0)
    assert found["answers"] == gained("ftjax_answers_total")
    # Answers of the first second are no part of the rate.
    counted = found["tokens_per_s"] * short.seconds
    assert 0 < counted < gained("ftjax_generated_tokens_total")
    assert found["tokens_per_answer"] <= short.new
    assert 0 < found["first_p50_ms"] <= found["first_p95_ms"]


def test_clients_that_hang_up_free_their_slots(endpoint):
    found = asyncio.run(bench_serve.hang_up(address(endpoint), PROMPTS, clients=3, args=ARGS))
    assert (found["hung_up"], found["lost"]) == (3, 0)
    assert found["freed_s"] is not None
    assert found["seen"] <= 3


def test_numbers_of_metrics(endpoint):
    found = asyncio.run(bench_serve.metrics(address(endpoint)))
    assert found["ftjax_slots"] == 4
    assert found["ftjax_queue"] == 0


def test_models_health_and_metrics(endpoint):
    listed = endpoint.client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["base", "law", "code"]
    assert endpoint.client.get("/v1/models/law").json() == listed[1]
    assert endpoint.client.get("/v1/models/lw").status_code == 404
    assert endpoint.client.get("/health").json() == {"status": "ok"}
    numbers = metrics(endpoint)
    endpoint.complete(TEXTS)
    later = metrics(endpoint)
    gained = lambda name: later[name] - numbers[name]
    wanted = endpoint.wanted("law", TEXTS)
    assert gained("ftjax_generated_tokens_total") == sum(len(a.tokens) for a in wanted)
    assert gained("ftjax_prompt_tokens_total") == sum(len(a.prompt) for a in wanted)
    assert gained("ftjax_answers_total") == gained("ftjax_first_token_seconds_count") == len(TEXTS)
    assert later["ftjax_slots"] == SLOTS
    assert gained('ftjax_requests_total{path="/v1/completions",status="200"}') == 1


def metrics(served):
    response = served.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
