"""What XLA makes of our programs for NVIDIA's GPUs, without a GPU."""

import importlib.util
import re

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from configs import quickstart
from ftjax.run import config as settings_lib
from ftjax.run import plan, rehearse, topology

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("jax_plugins") or not any(
        importlib.util.find_spec(f"jax_plugins.xla_cuda{n}") for n in (12, 13)
    ),
    reason="no CUDA plugin: pip install 'ftjax[cuda]'",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def without_cache():
    """Programs of devices that are not here can be written to the cache, and not read from it."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


def settings(**axes):
    c = quickstart.get_config()
    c.model.compute_dtype = c.model.param_dtype = "bfloat16"
    c.mesh = dict(data=1, fsdp=1, expert=1, sequence=1, tensor=1) | axes
    c.data.max_tokens, c.batch_size = 256, 16
    return settings_lib.read(c.to_dict())


@pytest.mark.parametrize("axes", [dict(fsdp=4), dict(fsdp=2, tensor=2)])
def test_attention_on_gpus_is_their_kernel(axes):
    """Of a device's own rows and heads: in the condition's branches nothing is sent."""
    own, target = settings(**axes), topology.read("h100-4")
    mesh = rehearse.meshes.make(**own.mesh, devices=target.devices())
    p = plan.program(own, mesh=mesh)
    lowered = plan.compiled_step(p).lower(p.state, p.hyper, p.frozen, rehearse.batch(p))
    text = lowered.compile().as_text()
    rows = re.findall(r"\(bf16\[(\d+),(\d+),256,\d+\][^(]*custom-call.*fmha", text)
    heads = p.parts.model.config.heads // axes.get("tensor", 1)
    assert rows
    assert {(int(b), int(n)) for b, n in rows} == {(16 // axes["fsdp"], heads)}


def test_a_rehearsal_says_what_a_gpu_holds():
    found = rehearse.rehearse(settings(fsdp=8), topology.read("h200-8"))
    assert found["fits"]
    assert found["hbm"]["capacity"] == 143771 * 2**20
    assert any("kernels have no FLOPs" in note for note in found["notes"])
    assert found["roofline"]["seconds"]["ici"] > 0
    assert found["roofline"]["seconds"]["dcn"] == 0
