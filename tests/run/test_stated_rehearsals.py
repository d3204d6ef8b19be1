"""What configs for pods state of themselves, in their docstrings: the command, and what it printed.

python -m experiments.rehearse --config configs/x_8b.py --topology v5e-16
2.33 of 15.75 GiB a device; 0.63 s a step by the roofline, bound by compute
"""

import ast
import importlib.util
import json
import os
import re
import sys

import pytest

from ftjax.core import config as conf
from ftjax.run import config as settings_lib
from ftjax.run import topology
from tests.lab import ROOT
from tests.run import test_rehearse

NOT_YET = "Not yet rehearsed"
FILES = sorted(path.name for size in ("8b", "70b") for path in ROOT.glob(f"configs/*_{size}.py"))
COMMAND = re.compile(
    r"^ *python -m experiments\.rehearse --config configs/(?P<file>\S+) --topology (?P<name>\S+)$",
    re.MULTILINE,
)
FIGURES = re.compile(
    r"^ *(?P<needed>[\d.]+) of (?P<capacity>[\d.]+) GiB a device; (?P<step>[\d.]+) s a step by the "
    r"roofline, bound by (?P<bound>compute|ici|dcn|memory)$",
    re.MULTILINE,
)


def text_of(file):
    return ast.get_docstring(ast.parse((ROOT / "configs" / file).read_text()))


STATED = [file for file in FILES if NOT_YET not in text_of(file)]


def stated(file):
    """Read the command and the figures that a config states."""
    text = text_of(file)
    command, figures = COMMAND.search(text), FIGURES.search(text)
    assert command, f"configs/{file}: expected the command of its rehearsal"
    assert figures, f"configs/{file}: expected figures of its rehearsal"
    assert figures.start() == command.end() + 1, "expected the figures right behind the command"
    return command, figures


def test_figures_are_stated_or_it_is_said_that_there_are_none():
    assert STATED
    assert [COMMAND.search(text_of(file)) for file in FILES if file not in STATED] == [None] * (
        len(FILES) - len(STATED)
    )


@pytest.mark.parametrize("file", STATED)
def test_a_config_states_its_rehearsal(file):
    command, figures = stated(file)
    assert command["file"] == file
    chip = topology.read(command["name"]).chip
    assert float(figures["capacity"]) == pytest.approx(chip.hbm_bytes / topology.GIB, abs=0.005)
    assert float(figures["needed"]) < float(figures["capacity"])
    batch = settings_lib.read(conf.load(str(ROOT / "configs" / file))).batch_size
    assert batch % topology.read(command["name"]).count == 0  # a row for each device


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="no libtpu: pip install 'ftjax[tpu]'"
)
@pytest.mark.parametrize("file", STATED)
def test_the_compiler_says_so(file, tmp_path):
    """Minutes of a core each. Another release of the compiler may need other figures."""
    command, figures = stated(file)
    out = tmp_path / "found.json"
    done = test_rehearse.run(
        f"--config=configs/{file}", f"--topology={command['name']}", f"--json={out}",
        PYTHONPATH=os.pathsep.join(sys.path), longest=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["hbm"]["needed"] / topology.GIB == pytest.approx(
        float(figures["needed"]), rel=0.05
    )
    assert found["roofline"]["step_s"] == pytest.approx(float(figures["step"]), rel=0.05)
    assert found["roofline"]["bound"] == figures["bound"]
