"""Meshes over the eight fake devices, and where arrays lie."""

import itertools
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ftjax.core import mesh as meshes


@pytest.fixture(scope="module")
def mesh():
    return meshes.make(data=2, fsdp=2, tensor=2)


def test_one_axis_takes_the_rest(mesh):
    assert dict(mesh.shape) == dict(data=2, fsdp=2, expert=1, sequence=1, member=1, tensor=2)
    count = len(jax.devices())
    assert dict(meshes.make(fsdp=4).shape) == dict(
        data=count // 4, fsdp=4, expert=1, sequence=1, member=1, tensor=1
    )
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


def torus(slices=1, side=4):
    """Devices of a v5e, host after host as jax lists them; a host has a square of four."""
    corners = itertools.product(range(0, side, 2), range(0, side, 2))
    places = [(x + i, y + j, 0) for y, x in corners for j in (0, 1) for i in (0, 1)]
    return [
        types.SimpleNamespace(
            id=i, platform="tpu", device_kind="TPU v5 lite", coords=coords, core_on_chip=0,
            slice_index=piece, process_index=i // 4,
        )
        for i, (piece, coords) in enumerate(itertools.product(range(slices), places))
    ]  # fmt: skip


def distance(a, b, side=4):
    steps = [abs(x - y) for x, y in zip(a.coords, b.coords, strict=True)]
    return sum(min(step, side - step) for step in steps)


def test_neighbours_on_an_axis_are_neighbours_on_the_torus():
    devices = torus()
    found = meshes.arrange(devices, (1, 4, 1, 4)).reshape(4, 4)
    assert {d.id for d in found.flat} == {d.id for d in devices}
    rings = [*found, *found.T]
    assert all(distance(a, b) == 1 for ring in rings for a, b in itertools.pairwise(ring))
    listed = np.asarray(devices).reshape(4, 4)  # as they come, they are not
    assert any(distance(a, b) > 1 for ring in listed for a, b in itertools.pairwise(ring))


def test_slices_divide_the_replicas_alone():
    found = meshes.arrange(torus(slices=2), (4, 4, 1, 2))
    for half, piece in ((found[:2], 0), (found[2:], 1)):
        assert {device.slice_index for device in half.flat} == {piece}
    with pytest.raises(ValueError, match=r"mesh\.data: got 1; expected a multiple of 2"):
        meshes.arrange(torus(slices=2), (1, 16, 1, 2))


def test_devices_without_a_torus_stay_in_order():
    found = meshes.arrange(jax.devices()[:8], (2, 2, 1, 2))
    assert found.ravel().tolist() == jax.devices()[:8]


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        (dict(fsdp=2), 1, (1, 1, 1, 1, 1, 1)),
        (dict(fsdp=2), 4, (2, 1, 2, 1, 1, 1)),
        (dict(data=-1, fsdp=8, tensor=4), 8, (1, 1, 2, 1, 1, 4)),
        (dict(data=8), 2, (2, 1, 1, 1, 1, 1)),
        (dict(data=1, fsdp=-1), 4, (1, 1, 4, 1, 1, 1)),
        (dict(expert=4, tensor=3), 2, (1, 1, 1, 2, 1, 1)),
        (dict(tensor=8), 6, (3, 1, 1, 1, 1, 2)),
        (dict(fsdp=2, sequence=4), 4, (1, 1, 2, 1, 2, 1)),
        (dict(member=2, tensor=2), 4, (1, 2, 1, 1, 1, 2)),
    ],
)
def test_sizes_for_other_devices_are_fitted(sizes, count, expected):
    found = meshes.fit(sizes, count)
    assert tuple(found[axis] for axis in meshes.AXES) == expected
    assert meshes.resolve(found, count) == found


HEADS = dict(D=32, N=4, K=2, F=48, V=2001)


def test_sizes_that_the_mesh_cuts_are_said_where_they_stay_whole(capsys):
    meshes.check_sizes(HEADS, meshes.make(data=1, fsdp=2, tensor=4))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "mesh.tensor: 4 does not divide the heads of keys (2): every one of the 4" in said[0]
    assert "the vocabulary (2001)" in said[1]


@pytest.mark.parametrize(
    ("sizes", "mesh", "message"),
    [
        (
            HEADS,
            dict(data=1, tensor=8),
            r"got 8, .*the heads \(4\); expected one of 1, 2, 4",
        ),
        (HEADS, dict(data=2, fsdp=-1), None),
        (HEADS | dict(D=34), dict(data=2, fsdp=4), r"fsdp: got 4, .*width of the model \(34\)"),
        (HEADS, dict(data=1, fsdp=2, sequence=4), None),
        (
            HEADS | dict(D=36),
            dict(data=1, fsdp=2, sequence=4),
            r"sequence: got 4, .*the model \(36\) in 2 parts; expected one of 1, 2; use mesh",
        ),
        (HEADS | dict(E=6), dict(data=2, expert=4), r"expert: got 4, .*use mesh\.expert=2"),
    ],
)
def test_sizes_that_the_mesh_does_not_divide_are_refused(sizes, mesh, message):
    mesh = meshes.make(**mesh)
    if message is None:
        meshes.check_sizes(sizes, mesh)
        return
    with pytest.raises(ValueError, match=message):
        meshes.check_sizes(sizes, mesh)


@pytest.mark.parametrize("sizes", [dict(data=2, fsdp=2, tensor=2), dict(data=1, tensor=8)])
def test_local_rows_of_one_process_are_all(sizes):
    mesh = meshes.make(**sizes)
    assert meshes.local_rows(8, mesh) == list(range(8))
    batch = {"tokens": np.arange(24).reshape(8, 3)}
    np.testing.assert_array_equal(meshes.put_local(batch, mesh, rows=8)["tokens"], batch["tokens"])
    with pytest.raises(ValueError, match="batch_size: got 8 rows in process 0; expected 16"):
        meshes.put_local(batch, mesh, rows=16)
