"""What libtpu makes of our programs, without a TPU; its compiler knows no options of a CPU's."""

import importlib.util
import json
import os
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from configs import quickstart
from ftjax.core import mesh as meshes
from ftjax.ops import attention, visible
from ftjax.run import config as settings_lib
from ftjax.run import hlo, rehearse, topology
from tests.run import test_rehearse

pytestmark = [
    pytest.mark.usefixtures("without_cache"),
    pytest.mark.skipif(
        not importlib.util.find_spec("libtpu"), reason="no libtpu: pip install 'ftjax[tpu]'"
    ),
]


@pytest.mark.parametrize(
    ("heads", "size", "window", "cap", "sink", "axes"),
    [
        ((4, 2), 128, None, None, False, dict(fsdp=4)),
        ((4, 2), 64, 40, 30.0, False, dict(fsdp=2, tensor=2)),
        ((4, 2), 64, None, None, True, dict(fsdp=1, tensor=4)),  # more devices than key heads
        ((2, 2), 192, None, None, False, dict(fsdp=4)),
        ((4, 2), 128, None, None, False, dict(fsdp=2, sequence=2)),
        ((4, 2), 64, 40, 30.0, True, dict(sequence=2, tensor=2)),
    ],
)
def test_attention_on_a_tpu_is_its_kernel(heads, size, window, cap, sink, axes):
    mesh = meshes.make(**dict(data=1) | axes, devices=topology.read("v5e-4").devices())
    shape = lambda *sizes, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(sizes, dtype)
    q, k = (shape(4, 256, n, size) for n in heads)
    v = shape(4, 256, heads[1], min(size, 128))
    arrays = q, k, v, shape(heads[0], dtype=jnp.float32) if sink else None
    rows = (shape(4, 256, dtype=jnp.int32),) * 2

    def loss(arrays, positions, segments):
        *qkv, sink_N = arrays
        seen = visible.visible_keys(positions, segments, window=window)
        out = attention.attend_causal(*qkv, seen, scale=0.1, cap=cap, sink_N=sink_N)
        return jnp.square(out.astype(jnp.float32)).sum()

    # Of 16-bit operands the kernel's compiler refuses the precision that other tests ask for.
    with jax.default_matmul_precision("default"), jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(loss)).lower(arrays, *rows).compile()
    assert hlo.kernels(hlo.parse(compiled.as_text())) == 3  # forward, and two for the gradients


def test_members_on_parts_of_a_slice_run_the_kernel_too():
    sizes = dict(data=1, member=2, fsdp=1, sequence=2)
    mesh = meshes.make(**sizes, devices=topology.read("v5e-4").devices())
    x = jax.ShapeDtypeStruct((2, 4, 256, 2, 128), jnp.bfloat16)

    def loss(x):
        rows = jnp.broadcast_to(jnp.arange(256), (4, 256))
        seen = visible.visible_keys(rows, jnp.ones_like(rows))
        out = attention.attend_causal(x, x, x, seen, scale=0.1)
        return jnp.square(out.astype(jnp.float32)).sum()

    def step(x):
        options = dict(axis_names={meshes.MEMBER}, check_vma=False)
        own = lambda x: jax.lax.map(jax.grad(loss), x)
        return jax.shard_map(own, in_specs=P("member"), out_specs=P("member"), **options)(x)

    with jax.default_matmul_precision("default"), jax.set_mesh(mesh):
        compiled = jax.jit(step).lower(x).compile()
    module = hlo.parse(compiled.as_text())
    assert hlo.kernels(module) == 3
    # What joins keys of a row stays among the devices of a member.
    sent = hlo.collectives(module, slices=(0, 0, 1, 1))
    assert {own.network for own in sent} == {"ici"}


@pytest.mark.parametrize("name", ["v5e-8", "tpu7x-8"])
def test_what_devices_send_is_read_of_programs_that_jax_cannot_print(name):
    """A chip of tpu7x sends with a core of its own, whose instructions `as_text` refuses."""
    mesh = meshes.make(data=1, fsdp=8, devices=topology.read(name).devices())
    place = lambda *axes: jax.NamedSharding(mesh, P(*axes))
    shape = lambda *sizes, at: jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=at)
    w, x = shape(4, 512, 512, at=place(None, "fsdp")), shape(64, 512, at=place("fsdp"))

    def loss(w, x):
        y, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)
        return jnp.square(y.astype(jnp.float32)).sum()

    with jax.default_matmul_precision("default"):
        lowered = jax.jit(jax.grad(loss)).lower(w, x)
        compiled, text = rehearse.compile_step(lowered, platform="tpu")
    module = hlo.parse(text)
    assert hlo.flops(module) == pytest.approx(4 * 3 * 2 * 64 * 512 * 512 / 8, rel=0.5)
    sent = sum(each.bytes for each in hlo.collectives(module, slices=[0] * 8))
    assert sent > 4 * 512 * 512 * 2 * 7 / 8  # gradients of four layers, at least
    assert compiled.memory_analysis().argument_size_in_bytes > 0


@pytest.mark.parametrize("policy", ["light_offload", "full_offload"])
def test_what_is_kept_on_the_host_is_in_its_memory(policy):
    """The inputs of six blocks of width 128, of four rows of 512 tokens; and what light keeps."""
    c = quickstart.get_config()
    c.model.remat, c.model.compute_dtype = policy, "bfloat16"
    c.batch_size, c.data.max_tokens = 4, 512
    with jax.default_matmul_precision("default"):
        found = rehearse.rehearse(settings_lib.read(c), topology.read("v5e-1"))
    inputs = 4 * 512 * 128 * 6 * 2  # two bytes each
    assert (found["host_bytes"] == inputs) == (policy == "full_offload")
    assert found["host_bytes"] >= inputs
    assert sum("in the host's memory" in note for note in found["notes"]) == 1


@pytest.mark.slow
def test_a_step_is_compiled_for_tpus_without_one(tmp_path):
    out = tmp_path / "x.json"
    given = ("--config=configs/quickstart.py", "--topology=v5e-4", f"--json={out}")
    done = test_rehearse.run(
        *given, "--config.model.compute_dtype=bfloat16", PYTHONPATH=os.pathsep.join(sys.path)
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["fits"]
    assert found["hbm"]["capacity"] == 15.75 * 2**30
    assert found["flops"]["program"] == pytest.approx(found["flops"]["model"], rel=0.5)
    assert found["roofline"]["bound"] in ("compute", "ici", "memory")
    # Six layers of attention, each forward and two kernels for the gradients.
    assert found["notes"] == ["18 calls of kernels have no FLOPs here"]
