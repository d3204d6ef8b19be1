"""The smoke study, run once: what the literature says, asserted of our own numbers.

Its one seed has no noise floor: `verdicts.MARGIN` stands in, and says there what it holds for.
"""

import json
import os
import subprocess
import sys

import pytest

from ftjax.studies import literature, verdicts
from tests.lab import ROOT

LONGEST_S = 1800  # of two minutes on an idle machine


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "experiments.sequential", "--config",
               "configs/forgetting_smoke.py", "--workdir", str(folder)]  # fmt: skip
    # One device and all optimisations, as a user has them; the tests' cache of programs.
    own = os.environ | dict(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1", PYTHONWARNINGS="ignore")
    done = subprocess.run(
        command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=LONGEST_S
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def found(report):
    return {each.statement.number: each for each in literature.judge([report])}


GATES = (1, 2, 3, 6, 7, 8, 9, 11, 12, 20)
OPEN = (10, 22)  # carried, and not resolved by one seed of one task


def test_the_study_carries_its_gates(found):
    carried = {
        number
        for number, each in found.items()
        if each.statement.gate and each.found.verdict != verdicts.NOT_RUN
    }
    assert carried == {*GATES, *OPEN}


@pytest.mark.parametrize("number", GATES)
def test_a_gate_of_the_literature(found, number):
    each = found[number]
    assert each.found.verdict == verdicts.AGREE, f"{each.statement.claim}: {each.found.ours}"
