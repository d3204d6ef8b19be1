"""The benchmark beside torch: who may be asked without it, and whose turn it is."""

import functools
import signal
import statistics
import subprocess
import sys

import pytest

from scripts import bench_against, bench_peers
from tests.lab import ROOT


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "scripts.bench_peers", *arguments], cwd=ROOT, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip


def test_help_and_errors_need_neither_torch_nor_jax():
    code = "import sys, scripts.bench_peers; print({'torch', 'jax', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=True, timeout=60)  # fmt: skip
    assert done.stdout == "set()\n"
    assert "--turns" in command("--help").stdout
    assert "--cases: got 'sft_x'; expected one of sft_lora" in command("--cases=sft_x").stderr


class Side:
    """Takes a second a call, the other one twice as long."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def take(self, count):
        self.log.append(self.name)
        seconds = dict(ours=1.0, theirs=2.0)[self.name]
        return [seconds, seconds / 2, 0.5]

    def end(self):
        self.log.append(f"{self.name} ended")


def test_sides_take_turns_and_ratios_are_theirs_over_ours():
    log = []
    makers = [functools.partial(Side, name, log) for name in bench_peers.SIDES]
    found = bench_against.compare("x", makers, 4, names=bench_peers.SIDES)
    assert found["seconds_theirs"] == statistics.median([2.0] * 4)
    assert found["seconds_ratio"] == found["cpu_seconds_ratio"] == 2.0
    assert log[1:9] == ["ours", "theirs", "theirs", "ours"] * 2
    assert log[9:] == ["ours ended", "theirs ended"]


def test_a_side_that_cannot_begin_leaves_none_behind():
    log = []

    def fails():
        raise SystemExit("error")

    makers = [functools.partial(Side, "theirs", log), fails]
    with pytest.raises(SystemExit):
        bench_against.compare("x", makers, 4, names=bench_peers.SIDES)
    assert log == ["theirs ended"]


def test_who_has_no_turn_stands_still(monkeypatch):
    code = (
        "import sys\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n    print([int(line), 2, 3], flush=True)"
    )
    start = subprocess.Popen

    def stand_in(given, **options):
        return start([sys.executable, "-c", code], **options)

    monkeypatch.setattr(bench_peers.subprocess, "Popen", stand_in)
    side = bench_peers.Side("theirs", "sft_lora")
    process, sent = side._process, []
    send = process.send_signal
    monkeypatch.setattr(process, "send_signal", lambda number: (sent.append(number), send(number)))
    assert side.take(7) == [7, 2, 3]
    assert sent == [signal.SIGCONT, signal.SIGSTOP]
    side.end()
    assert process.returncode == 0
