import functools
import subprocess
import sys

import jax
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.run import reader
from tests.lab import ROOT, environment, finish


@pytest.fixture(scope="module")
def latest(trained):
    return reader.load(trained.workdir)


def test_the_latest_checkpoint_is_the_end_of_the_run(trained, latest):
    assert latest.step == 3
    factors = [leaf for path, leaf in tree.paths(latest.params).items() if path.endswith("/b")]
    assert factors
    assert all((np.asarray(leaf) != 0).any() for leaf in factors)  # they start at 0
    assert latest.base["adapters"] is None
    same = jax.tree.map(lambda a, b: bool((a == b).all()), latest.base, reader.base_of(
        reader.parts_of(trained.workdir)))  # fmt: skip
    assert all(jax.tree.leaves(same))


def test_a_checkpoint_by_its_step_and_the_best_one(trained, latest):
    two = reader.load(trained.workdir, checkpoint="2")
    assert two.step == 2
    different = jax.tree.map(
        lambda a, b: bool((a != b).any()), two.params["adapters"], latest.params["adapters"]
    )
    assert any(jax.tree.leaves(different))
    assert reader.load(trained.workdir, checkpoint="best").step in (2, 3)


@pytest.mark.parametrize("name", ["7", "newest", "-1"])
def test_an_unknown_checkpoint_is_an_error_that_lists_them(name, trained):
    with pytest.raises(ValueError, match=r"expected latest, best or a step: .*2, 3"):
        reader.load(trained.workdir, checkpoint=name)


def test_a_directory_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no config.json"):
        reader.load(tmp_path)


def test_a_run_without_a_checkpoint_is_an_error(trained, tmp_path):
    (tmp_path / "config.json").write_text((trained.workdir / "config.json").read_text())
    with pytest.raises(ValueError, match=r"no checkpoint; .*pass --base"):
        reader.load(tmp_path)


SHARDED = {"mesh.data": 1, "mesh.fsdp": 2, "mesh.tensor": 4}


@pytest.fixture(scope="module")
def sharded(lab, tmp_path_factory):
    """The workdir of a run that cut its weights over eight devices."""
    return lab.run("sharded", tmp_path_factory.mktemp("runs"), **SHARDED, steps=1)


def test_a_run_is_read_on_its_own_mesh_where_that_is_possible(sharded, capfd):
    parts = reader.parts_of(sharded)
    assert dict(parts.mesh.shape) == dict(data=1, fsdp=2, expert=1, sequence=1, member=1, tensor=4)
    chosen = reader.parts_of(sharded, sizes=dict(data=-1, tensor=2))
    assert dict(chosen.mesh.shape) == dict(data=4, fsdp=1, expert=1, sequence=1, member=1, tensor=2)
    assert "mesh: the run's is" not in capfd.readouterr().err
    with pytest.raises(ValueError, match=r"mesh: got .*'fsdp': 3.*expected a product of 8 devices"):
        reader.parts_of(sharded, sizes=dict(data=-1, fsdp=3))


def test_a_run_is_read_on_the_devices_that_are_there(sharded, monkeypatch, capfd):
    whole = reader.load(sharded)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(meshes, "make", functools.partial(meshes.make, devices=one))
    run = reader.load(sharded)
    assert run.step == whole.step == 1
    assert set(run.parts.mesh.shape.values()) == {1}
    said = capfd.readouterr().err
    assert "'fsdp': 2" in said
    assert "read on 1 devices" in said
    for path, leaf in tree.paths(run.params).items():
        assert leaf.sharding.device_set == set(one), path
        np.testing.assert_array_equal(leaf, tree.paths(whole.params)[path], err_msg=path)


def test_commands_of_one_device_take_a_run_of_eight(sharded, tmp_path):
    """Export alone: all commands that read a run go through the same function."""
    command = ["experiments.export", "--workdir", sharded, "--out", tmp_path / "out", "--merge"]
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, env=environment(devices=1),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    code, _, err = finish(process)
    assert code == 0, err
    assert "read on 1 devices" in err
    assert list((tmp_path / "out").glob("*.safetensors"))
