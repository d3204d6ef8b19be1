"""Meshes over the eight fake devices, and where arrays lie."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ftjax.core import mesh as meshes


@pytest.fixture(scope="module")
def mesh():
    return meshes.make(data=2, fsdp=2, tensor=2)


def test_one_axis_takes_the_rest(mesh):
    assert dict(mesh.shape) == dict(data=2, fsdp=2, expert=1, tensor=2)
    count = len(jax.devices())
    assert dict(meshes.make(fsdp=4).shape) == dict(data=count // 4, fsdp=4, expert=1, tensor=1)
    assert dict(meshes.make(data=1, devices=jax.devices()[:1]).shape)["data"] == 1


@pytest.mark.parametrize(
    "sizes",
    [dict(data=3), dict(data=-1, fsdp=3), dict(data=-1, fsdp=-1), dict(data=0), dict(data=16)],
)
def test_sizes_that_do_not_fit(sizes):
    with pytest.raises(ValueError, match="mesh: got"):
        meshes.make(**sizes)


@pytest.mark.parametrize(
    ("letters", "shape", "expected"),
    [
        ("LDNH", (3, 8, 4, 6), P(None, "fsdp", "tensor", None)),
        ("LNHD", (3, 4, 6, 8), P(None, "tensor", None, "fsdp")),
        ("VD", (6, 8), P("tensor", "fsdp")),
        ("VD", (7, 8), P(None, "fsdp")),  # 7 does not divide: stays whole
        ("BTD", (8, 5, 8), P(("data", "fsdp", "expert"), None, None)),  # B has taken fsdp
        ("DR", (8, 2), P("fsdp", None)),
        ("", (), P()),
    ],
)
def test_letters_to_mesh_axes(mesh, letters, shape, expected):
    assert meshes.spec(letters, shape, mesh) == expected


@pytest.mark.parametrize(
    ("letters", "shape", "expected"),
    [
        ("LEDCF", (3, 4, 6, 2, 8), P(None, "expert", "fsdp", None, "tensor")),
        ("LEDCF", (3, 5, 6, 2, 8), P(None, None, "fsdp", None, "tensor")),  # 5 does not divide
        ("BTD", (8, 5, 8), P(("data", "fsdp", "expert"), None, None)),
        ("EBTD", (4, 8, 5, 8), P("expert", ("data", "fsdp"), None, None)),
    ],
)
def test_experts_and_the_batch_share_an_axis(letters, shape, expected):
    mesh = meshes.make(data=1, fsdp=2, expert=2, tensor=2)
    assert meshes.spec(letters, shape, mesh) == expected
    assert meshes.replicas(mesh) == 4


def test_shardings_place_a_tree(mesh):
    arrays = {"w": np.zeros((8, 6)), "n": np.zeros(8)}
    places = meshes.shardings({"w": "DF", "n": "D"}, arrays, mesh)
    put = jax.device_put(arrays, places)
    assert put["w"].sharding.shard_shape((8, 6)) == (4, 3)
    assert put["n"].sharding.shard_shape((8,)) == (4,)


def test_batches_divide_over_replicas(mesh):
    meshes.check_batch(8, 2, mesh)
    with pytest.raises(ValueError, match="multiple of accumulate"):
        meshes.check_batch(12, 2, mesh)
    places = meshes.batch_shardings({"tokens": np.zeros((8, 3))}, mesh)
    assert places["tokens"].shard_shape((8, 3)) == (2, 3)


def test_constraints_hold_under_a_mesh_and_only_there(mesh):
    x = np.zeros((4, 3, 8), np.float32)
    assert meshes.constrain(x, "BTD") is x
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: meshes.constrain(x * 2, "BTD"))(x)
    assert y.sharding.shard_shape(y.shape) == (1, 3, 8)
