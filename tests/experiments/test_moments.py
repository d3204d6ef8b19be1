"""Runs whose moments are kept in 8 bits: killed or not, in full or with adapters."""

import jax
import numpy as np
import pytest

from ftjax.core import tree
from ftjax.optim import moments
from ftjax.run import plan as running
from tests import lab as labs

INT8 = {
    "optim.state_dtype": "int8", "checkpoint.every_steps": 2, "checkpoint.keep": 2, "steps": 4,
}  # fmt: skip
WAYS = {"full": {"adapter": dict(name="")}, "lora": {}}


@pytest.fixture
def small_too(monkeypatch):
    """The arrays of the lab's base are small ones."""
    monkeypatch.setattr(moments, "SMALLEST", 64)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_goes_on_is_the_run_that_never_stopped(lab, small_too, way, tmp_path):
    own = INT8 | WAYS[way]
    whole = lab.run("whole", tmp_path, **own)
    part = labs.cut_back(whole, tmp_path / "part", 2)
    labs.train(lab.settings(**own), part)
    weights = [next((run / "export").glob("*.safetensors")).read_bytes() for run in (whole, part)]
    assert weights[0] == weights[1]
    assert labs.metrics(whole)[-1]["loss"] == labs.metrics(part)[-1]["loss"]


def test_a_run_resumes_on_another_mesh(lab, small_too, tmp_path, use_devices):
    """The blocks are those of the shape: other devices have other parts of the same arrays."""
    own = INT8 | WAYS["full"] | {"mesh": dict(data=1, fsdp=-1, expert=1, tensor=1)}
    use_devices(4)
    whole = lab.run("whole", tmp_path, **own)
    run = labs.cut_back(whole, tmp_path / "run", 2)
    use_devices(2)
    labs.train(lab.settings(**own), run)
    found = [labs.metrics(each)[-1]["loss"] for each in (run, whole)]
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_a_plan_and_a_state_have_a_byte_in_place_of_four(lab, small_too):
    plans = {d: running.plan(lab.settings(**WAYS["full"] | {"optim.state_dtype": d}))
             for d in ("float32", "int8")}  # fmt: skip
    sizes = {d: tree.bytes_of(p.state.opt_state) for d, p in plans.items()}
    # Blocks of 32 here, of which each has a scale of 4 bytes.
    assert 0.25 < sizes["int8"] / sizes["float32"] < 0.30
    state, _ = running.arrays(plans["int8"])
    same = lambda a, b: (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)
    assert all(jax.tree.leaves(jax.tree.map(same, state.opt_state, plans["int8"].state.opt_state)))
