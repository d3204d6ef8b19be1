"""The command: it serves a run with the texts of `experiments.generate`, and drains at SIGTERM."""

import json
import signal
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import httpx
import pytest

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
        (["--workdir=x", "--model=y"], "and not both"), ([], "and not both"),
        (["--model=tiny", "--nobase"], "nothing else to serve"),
        (["--workdir=x/base"], "got 'base' for a run or an adapter"),
        (["--model=tiny", "--adapter=base=x"], "got 'base' for a run or an adapter"),
        (["--model=tiny"], "pip install 'ftjax[serve]'"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_said_at_once(flags, message, tmp_path):
    """The last one meets a module that says it is not there."""
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('no', name='uvicorn')")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.serve", *flags], cwd=lab_lib.ROOT, text=True,
        env=lab_lib.environment() | dict(PYTHONPATH=str(tmp_path)), capture_output=True,
        check=False, timeout=lab_lib.LONGEST_S,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
