"""The smoke study, run once: what the literature says, asserted of our own numbers.

Its one seed has no noise floor: `verdicts.MARGIN` stands in, and says there what it holds for. What
is learned from own samples, or resolved by several seeds alone, takes minutes (`-m slow`): those
studies, cut to a rate each.
"""

import json
import os
import subprocess
import sys

import pytest

from ftjax.studies import literature, verdicts
from tests.lab import ROOT

LONGEST_S = 1800  # of two minutes on an idle machine
LONGEST_SLOW_S = 3600  # of twenty


def run(config, folder, *, longest_s=LONGEST_S):
    """Run a study to its end; returns its report."""
    command = [sys.executable, "-m", "experiments.sequential", "--config", str(config),
               "--workdir", str(folder)]  # fmt: skip
    # One device and all optimisations, as a user has them; the tests' cache of programs.
    own = os.environ | dict(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1", PYTHONWARNINGS="ignore")
    done = subprocess.run(
        command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=longest_s
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


def judged(report):
    return {each.statement.number: each for each in literature.judge([report])}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return judged(run("configs/forgetting_smoke.py", tmp_path_factory.mktemp("smoke")))


GATES = (1, 2, 3, 6, 7, 8, 9, 11, 12, 20)
OPEN = (10, 22)  # carried, and not resolved by one seed of one task; 22 is by three tasks below


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


CUT = """
from configs import NAME

get_config = NAME.get_config

def study():
    whole = NAME.study()
    rates = RATES
    methods = {name: whole["methods"][name] for name in rates}
    parts = {part: name for part, name in whole["parts"].items() if name in rates}
    kept = dict(seeds=SEEDS, rates=rates, methods=methods, parts=parts, changes=(), axes={})
    return whole | kept | dict(sees_old=tuple(set(whole.get("sees_old", ())) & set(rates)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "name", "seeds", "rates"),
    [
        # Seeds of the study, and six that chose none of its skill, rates and fraction.
        ((13, 17), "forgetting_rl", range(1, 13),
         dict(sft=(5e-4,), rejection=(2e-3,), grpo=(2e-3,))),
        ((22,), "forgetting_tiny", 3, dict(replay=(3e-3,), anchor=(3e-3,))),
        ((23,), "forgetting_recovery", 1, dict(distilled=(1e-3,))),
        ((27,), "forgetting_rules", 1, dict(full=(1e-3,), lora=(3e-3,))),
    ],
)  # fmt: skip
def test_gates_of_a_study_that_takes_minutes(numbers, name, seeds, rates, tmp_path):
    config = tmp_path / "cut.py"
    text = CUT.replace("NAME", name).replace("RATES", repr(rates))
    config.write_text(text.replace("SEEDS", str(seeds)))
    every = judged(run(config, tmp_path / "study", longest_s=LONGEST_SLOW_S))
    for each in map(every.get, numbers):
        assert each.found.verdict == verdicts.AGREE, f"{each.statement.claim}: {each.found.ours}"
