"""What XLA makes of our programs for NVIDIA's GPUs, without a GPU."""

import importlib.util
import re

import pytest

from configs import quickstart
from ftjax.run import config as settings_lib
from ftjax.run import plan, rehearse, topology

PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
HAS_PLUGIN = importlib.util.find_spec("jax_plugins") and any(map(importlib.util.find_spec, PLUGINS))
pytestmark = [
    pytest.mark.usefixtures("without_cache"),
    pytest.mark.skipif(not HAS_PLUGIN, reason="no CUDA plugin: pip install 'ftjax[cuda]'"),
]


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
