"""Processes that are joined as the hosts of a run are, each of which calls one function.

    first, second = joined.call(train_on, str(folder), devices=1)

The function is one of a test module; its arguments, and what it returns, go through JSON. Any
process that fails or hangs fails the call, and takes the others with it.
"""

import contextlib
import importlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from tests import quick

ROOT = pathlib.Path(__file__).resolve().parent.parent
LONGEST_S = 240  # of a call, on a busy machine; none may wait for ever
MARK = "returned: "


def call(function, *arguments, devices: int = 1, processes: int = 2) -> list:
    """Call a function in joined processes of so many CPU devices; return what each returns."""
    what = json.dumps([function.__module__, function.__name__, arguments])
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.joined"]
    given = [free_address(), str(processes), what]
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(processes)]
        running = [
            subprocess.Popen(
                [*command, *given, str(index)], cwd=ROOT, env=environment(devices),
                stdout=log, stderr=subprocess.STDOUT,
            )
            for index, log in enumerate(logs)
        ]  # fmt: skip
        codes = _finish(running)
        texts = [log.seek(0) or log.read() for log in logs]
    assert codes == [0] * processes, f"exit codes {codes}:\n" + "\n".join(texts)
    return [json.loads(text.rpartition(MARK)[2].splitlines()[0]) for text in texts]


def environment(devices: int) -> dict[str, str]:
    """Return the variables of a process of its own with so many CPU devices."""
    return os.environ | quick.variables() | dict(
        JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(devices), PYTHONWARNINGS="ignore"
    )  # fmt: skip


def free_address() -> str:
    """Return host:port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _finish(running: list[subprocess.Popen]) -> list[int]:
    """Wait for all; where one fails the others would wait for it, so they are stopped."""
    limit = time.monotonic() + LONGEST_S
    while any(process.poll() is None for process in running):
        if time.monotonic() > limit or any(process.poll() for process in running):
            break
        time.sleep(0.05)
    for process in running:
        process.send_signal(signal.SIGABRT)  # prints where it waits
    return [process.wait() for process in running]


def main(address: str, count: str, what: str, index: str) -> None:
    """Join the others and call the function."""
    from ftjax.core import processes

    processes.start(coordinator=address, processes=int(count), index=int(index))
    module, name, arguments = json.loads(what)
    found = vars(importlib.import_module(module))[name](*arguments)
    processes.any_process(False)  # none leaves while another still works
    print(f"\n{MARK}{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
