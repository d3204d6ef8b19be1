"""In bfloat16 a policy and what it is compared with agree before the first update."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import optax
import pytest

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.core import mesh as meshes
from ftjax.core import rounding
from ftjax.models.hf import checkpoint
from ftjax.train import compile as compiling
from ftjax.train import state as states
from ftjax.train.policy import Policy
from ftjax.train.step import make_step
from tests.laws import subjects

MESHES = {
    "one": {},
    "data": dict(data=8),  # slow: its sums are those of fsdp
    "fsdp": dict(data=1, fsdp=8),
    "tensor": dict(data=1, tensor=2),
}
each = pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] if x == "data" else []) for x in MESHES],
)
LOW = jnp.bfloat16


@functools.cache
def model():
    module = checkpoint.family_of(subjects.PLAIN)
    config = module.from_hf(module.EXAMPLE)
    config = dataclasses.replace(
        config, layers=4, dim=64, heads=4, kv_heads=2, head_dim=16, ffw=192
    )
    return module.make(config, dtype=LOW)


@functools.cache
def params():
    weights = subjects.jitter(jax.jit(model().init)(jax.random.key(0)), scale=0.1)
    method = lora.make(rank=4, alpha=8.0)
    start = lambda key, w: protocol.init(method, key, model().linears, w, where="blocks/**")
    return {"model": weights, "adapters": jax.jit(start)(jax.random.key(1), weights)}


def first(name, objective, batch):
    """Compute the metrics of the first step on a mesh."""
    axes = MESHES[name]
    count = math.prod(axes.values())
    mesh = meshes.make(
        **dict(data=1, fsdp=1, expert=1, tensor=1) | axes, devices=jax.devices()[:count]
    )
    places = meshes.shardings(states.axes(model(), params()), params(), mesh)
    trainable, frozen = states.split(
        jax.device_put(jax.tree.map(jnp.copy, params()), places), ["adapters/**"]
    )
    tx = optax.sgd(0.0)
    state = states.create(trainable, tx, key=jax.random.key(0))
    step = make_step(model(), objective, tx, chunk=subjects.CHUNK)
    state = jax.device_put(state, states.shardings(state, states.axes(model(), params()), tx, mesh))
    whole = jax.tree.map(lambda leaf: leaf.sharding, state)
    run = compiling.jit(step, mesh=mesh, state=whole, dtype=model().dtype)
    return run(state, frozen, meshes.put(batch, meshes.batch_shardings(batch, mesh)))[1], mesh


@each
def test_the_first_loss_of_dpo_is_log_2(name):
    dpo = subjects.OBJECTIVES["dpo"].make(beta=1.0)
    metrics, _ = first(name, dpo, subjects.answers(rows=8, count=2))
    assert float(metrics["loss"]) == pytest.approx(math.log(2), abs=1e-4)


@each
def test_the_first_ratio_to_the_scores_is_1(name):
    batch = subjects.batch(rows=8)
    score = jax.jit(
        lambda batch: Policy(model(), params(), subjects.CHUNK).logps(batch),
        compiler_options=rounding.compiler_options(LOW),
    )
    batch |= {"old_logps": score(batch), "advantages": jnp.ones_like(batch["weights"][:, 1:])}
    metrics, _ = first(name, subjects.OBJECTIVES["grpo"].make(), batch)
    ratio = metrics["ratio"]
    assert float(ratio.total / ratio.weight) == pytest.approx(1, abs=1e-3)
