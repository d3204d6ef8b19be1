"""Importing ftjax is nearly free: nobody waits for libraries that their command does not use."""

import json
import subprocess
import sys

import pytest

HEAVY = ("flax", "grain", "matplotlib", "ml_collections", "orbax", "tensorflow_datasets")
SCRIPT = """
import json, sys, time
times = [time.perf_counter()]
for name in sys.argv[1:]:
    __import__(name)
    times.append(time.perf_counter())
seconds = [b - a for a, b in zip(times, times[1:])]
print(json.dumps(dict(seconds=seconds, loaded=[n for n in sys.modules if "." not in n])))
"""


@pytest.fixture(scope="module")
def started():
    names = ["jax", "ftjax", "ftjax.core.tree", "ftjax.core.conf"]
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def test_importing_ftjax_takes_less_than_a_second_more_than_jax(started):
    _, package, tree, conf = started["seconds"]
    assert package + tree + conf < 1.0


def test_importing_ftjax_loads_nothing_heavy(started):
    assert "jax" in started["loaded"]
    assert not set(HEAVY) & set(started["loaded"])
