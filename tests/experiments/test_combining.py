"""Adapters combined by the command: files in, one file out, with the function that they add to."""

import subprocess
import sys

import jax
import numpy as np

from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import io as peft
from ftjax.run import export as exporting
from tests.experiments.test_export import drawn
from tests.lab import ROOT, environment


def combine(*arguments):
    command = [sys.executable, "-m", "experiments.merge_adapters", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )


def test_two_adapters_become_one(lab, tmp_path):
    parts, params = drawn(lab)
    halved = params | {"adapters": jax.tree.map(lambda x: 0.5 * x, params["adapters"])}
    exporting.write(parts, params, tmp_path / "a")
    exporting.write(parts, halved, tmp_path / "b")
    done = combine(
        "--adapters", f"{tmp_path / 'a'}=0.7", "--adapters", f"{tmp_path / 'b'}=-0.4",
        "--out", tmp_path / "out", "--base", lab.root / "base",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    linears = parts.model.linears
    own = dict(linears=linears, names=parts.family.NAMES)
    merged = lambda tree: protocol.merge(params["model"], tree, linears)["blocks"]["mlp"]["up"]
    got = merged(peft.load(tmp_path / "out", **own))
    start = params["model"]["blocks"]["mlp"]["up"]
    a, b = (merged(found["adapters"]) - start for found in (params, halved))
    np.testing.assert_allclose(got - start, 0.7 * a - 0.4 * b, rtol=1e-3, atol=1e-5)
    assert np.abs(a).max() > 1e-3


def test_what_cannot_be_combined_is_one_line(lab, tmp_path):
    parts, params = drawn(lab)
    exporting.write(parts, params, tmp_path / "a")
    base = lab.root / "base"
    for arguments, message in (
        ([tmp_path / "a"], "expected DIR=WEIGHT"),
        ([f"{tmp_path / 'a'}=1", "--kind", "tie"], "kind: got 'tie'; did you mean 'ties'"),
    ):
        done = combine("--adapters", *arguments, "--out", tmp_path / "out", "--base", base)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
