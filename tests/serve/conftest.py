"""A small model behind an endpoint, on a thread: one base, two adapters, one compiled program."""

import dataclasses
import json
import threading
from typing import Any

import httpx
import jax
import numpy as np
import pytest
import uvicorn

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.run import build as setup
from ftjax.run import prompting
from ftjax.sampling import text
from ftjax.serve import endpoints, served
from ftjax.serve.service import Service

SLOTS, LENGTH, NEW = 4, 128, 12
MAX_QUEUE = 8
KEY = "let me in"


@dataclasses.dataclass(frozen=True)
class Served:
    """The service, what its texts must be, and a client of the server that runs it."""

    parts: Any
    models: dict
    service: Service
    url: str
    client: Any
    samplers: dict = dataclasses.field(default_factory=dict)  # compiled once

    def wanted(self, name, prompts, *, until=(), chat=False, **sampling):
        """Answer as `experiments.generate` does; returns `text.Answer`s."""
        which = str((until, chat, sampling))
        if which not in self.samplers:
            tokenizer, form = self.parts.tokenizer, self.service.form
            encode = prompting.make_encode(
                tokenizer, template=form.template, wrap=chat or form.wraps
            )
            self.samplers[which] = text.make_sampler(
                self.parts.model, tokenizer, stop_ids=form.stop_ids, until=until, encode=encode,
                **dict(max_new_tokens=NEW) | sampling,
            )  # fmt: skip
        return self.samplers[which](self.models[name], prompts, jax.random.key(5))

    def complete(self, prompt, *, model="law", path="completions", **more):
        """Post a completion; returns the response."""
        own = dict(model=model, prompt=prompt, max_tokens=NEW, temperature=0) | more
        return self.client.post(f"/v1/{path}", json={k: v for k, v in own.items() if v is not ...})


def adapters(parts, params, *, rank, seed):
    method = lora.make(rank=rank, alpha=8.0, init="gaussian")
    found = protocol.init(
        method, jax.random.key(seed), parts.model.linears, params["model"], where="blocks/**"
    )
    moved = lambda path, x: (
        (0.4 * np.random.default_rng(seed).normal(size=x.shape)).astype(np.float32)
        if path.endswith("/b")
        else x
    )
    return tree.map_with_paths(moved, found)


@pytest.fixture(scope="session")
def served_models(lab):
    """The parts of a base on one device, and params by name."""
    mesh = meshes.make(devices=jax.devices()[:1])
    parts = setup.build(lab.settings(adapter=dict(name="", where="blocks/**")), mesh=mesh)
    base = setup.weights(parts)
    tuned = {
        name: {**base, "adapters": adapters(parts, base, rank=rank, seed=seed)}
        for seed, (name, rank) in enumerate(dict(law=2, code=3).items())
    }
    return parts, {"base": base, **tuned}


@pytest.fixture(scope="session")
def endpoint(served_models):
    """See `Served`."""
    parts, models = served_models
    form = prompting.form_of(parts.tokenizer, parts.settings.data)
    built = served.build(
        parts, models, count=SLOTS, length=LENGTH, stop_ids=form.stop_ids, max_queue=MAX_QUEUE,
        max_queue_tokens=MAX_QUEUE * LENGTH,
    )  # fmt: skip
    service = Service(built, parts.tokenizer, form, length=LENGTH, max_body=20_000)
    for engine in service.engines:
        engine.warm_up()
    config = uvicorn.Config(endpoints.make(service), port=0, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with httpx.Client(base_url=url, timeout=60) as client:
        yield Served(parts, models, service, url, client)
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def events(response):
    """Return the JSON of server-sent events; they end with [DONE]."""
    lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def stream(served, path, **body):
    with served.client.stream("POST", path, json=body | dict(stream=True)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response)
