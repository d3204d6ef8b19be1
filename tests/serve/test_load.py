"""The load that the benchmark puts on an endpoint, small."""

import argparse
import asyncio

from scripts import bench_serve

PROMPTS = [[5, 6, 7], [8, 9, 10, 11]]
ARGS = argparse.Namespace(prompt=8, new=40, seconds=0.5)


def address(endpoint):
    host, _, port = endpoint.url.rpartition("//")[2].rpartition(":")
    return host, int(port)


def test_clients_that_hang_up_free_their_slots(endpoint):
    found = asyncio.run(bench_serve.hang_up(address(endpoint), PROMPTS, clients=3, args=ARGS))
    assert (found["hung_up"], found["lost"]) == (3, 0)
    assert found["freed_s"] is not None
    assert found["seen"] <= 3


def test_numbers_of_metrics(endpoint):
    found = asyncio.run(bench_serve.metrics(address(endpoint)))
    assert found["ftjax_slots"] == 4
    assert found["ftjax_queue"] == 0
