"""The command: it serves a run with the texts of `experiments.generate`, and drains at SIGTERM."""

import builtins
import json
import signal
import threading
import time
from typing import NamedTuple

import httpx
import pytest
from absl import app
from absl.testing import flagsaver

from experiments import serve as serve_main
from tests import lab as lab_lib

PROMPT, NEW = "Q: what is 3?\nA:", 8


class Running(NamedTuple):
    process: object
    url: str
    names: list


@pytest.fixture(scope="module")
def running(trained):
    """The server of a run, in a process of its own."""
    process = lab_lib.start(
        "--workdir", trained.workdir, "--port", 0, "--slots", 2, "--context", 128, main="serve"
    )
    names, _, url = process.stdout.readline().strip().partition(" at ")
    yield Running(process, url, names.split(", "))
    process.kill()
    process.communicate()


def test_it_serves_a_run_until_it_is_told_to_end(running, trained, lab):
    assert running.names == ["base", trained.workdir.name]
    url, wanted = running.url, {}
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    for name, flags in (("base", ["--base"]), (trained.workdir.name, [])):
        done = lab_lib.start(
            "--workdir", trained.workdir, "--prompt", PROMPT, "--max_new_tokens", NEW,
            "--output", lab.root / "said.jsonl", *flags, main="generate",
        )  # fmt: skip
        assert lab_lib.finish(done)[0] == 0
        wanted[name] = json.loads((lab.root / "said.jsonl").read_text())["text"]
        body = dict(model=name, prompt=PROMPT, max_tokens=NEW, temperature=0)
        found = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
        assert found["choices"][0]["text"] == wanted[name]
    drains(running)


def drains(running):
    """What has begun is answered, new connections are refused, and the code is 0."""
    body = dict(model="base", prompt=[PROMPT] * 4, max_tokens=100, temperature=0, n=8)
    found = {}

    def ask():
        found["answer"] = httpx.post(f"{running.url}/v1/completions", json=body, timeout=60)

    asking = threading.Thread(target=ask)
    asking.start()
    busy = "ftjax_slots_busy 2"
    while busy not in httpx.get(f"{running.url}/metrics").text:
        time.sleep(0.01)
    running.process.send_signal(signal.SIGTERM)
    code, _, err = lab_lib.finish(running.process)
    asking.join()
    assert code == 0, err
    assert len(found["answer"].json()["choices"]) == 32
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/health")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(workdir="x", model="y"), "and not both"), (dict(), "and not both"),
        (dict(model="tiny", base=False), "nothing to serve"),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together(flags, message):
    known = serve_main.flags.FLAGS
    if not known.is_parsed():
        known.mark_as_parsed()
    with flagsaver.flagsaver((serve_main.WORKDIR, ""), (serve_main.MODEL, "")):
        with flagsaver.flagsaver(**flags), pytest.raises(app.UsageError, match=message):
            serve_main.check_flags()


def test_a_lacking_extra_is_named(monkeypatch):
    real = builtins.__import__

    def lacking(name, *args, **more):
        if name == "uvicorn":
            raise ModuleNotFoundError("no", name="uvicorn")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ValueError, match=r"'uvicorn'; expected the extra `serve`; pip install"):
        serve_main.server_library()


def test_a_run_must_not_have_the_name_of_the_base():
    known = serve_main.flags.FLAGS
    if not known.is_parsed():
        known.mark_as_parsed()
    assert list(serve_main.named({"mine": {}}, {})) == ["base", "mine"]
    with pytest.raises(ValueError, match="got 'base' for a run .* pass --name"):
        serve_main.named({"base": {}}, {})
