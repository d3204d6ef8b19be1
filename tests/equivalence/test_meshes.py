"""What a run learns does not depend on its mesh, nor on the order of the devices in it.

LoRA by DPO in bfloat16 is where it would show: B starts as zeros, and the first step of Adam is the
sign of a gradient, so that a rounding where devices add decides which way a weight goes; and the
loss begins at log 2 with a margin that is the difference of two large sums.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.core import mesh as meshes
from ftjax.models.hf import checkpoint
from ftjax.objectives.losses import sequence
from ftjax.ops import products
from ftjax.train import compile as compiling
from ftjax.train import state as states
from ftjax.train.step import make_step
from tests.laws import subjects

STEPS, RATE, ROWS = 10, 1e-4, 64
MOST = 1e-3  # nats, from the lowest to the highest loss after so many steps
LOW = jnp.bfloat16
MESHES = {
    "data 8": dict(data=8), "fsdp 8": dict(fsdp=8), "data 4, fsdp 2": dict(data=4, fsdp=2),
    "data 2, fsdp 4": dict(data=2, fsdp=4), "data 4, tensor 2": dict(data=4, tensor=2),
    "fsdp 4, tensor 2": dict(fsdp=4, tensor=2), "data 2, tensor 4": dict(data=2, tensor=4),
    "data 2, fsdp 2, tensor 2": dict(data=2, fsdp=2, tensor=2),
    "fsdp 2, sequence 4": dict(fsdp=2, sequence=4),
    "data 2, sequence 2, tensor 2": dict(data=2, sequence=2, tensor=2),
}  # fmt: skip
ORDERS = {
    "as they are": [0, 1, 2, 3, 4, 5, 6, 7], "backwards": [7, 6, 5, 4, 3, 2, 1, 0],
    "turned": [3, 4, 5, 6, 7, 0, 1, 2], "halves in turn": [0, 4, 1, 5, 2, 6, 3, 7],
    "pairs swapped": [1, 0, 3, 2, 5, 4, 7, 6], "drawn": [5, 2, 7, 0, 3, 6, 1, 4],
}  # fmt: skip
FEW = [
    ("data 8", "as they are"), ("data 8", "drawn"), ("fsdp 4, tensor 2", "drawn"),
    ("data 2, tensor 4", "as they are"), ("fsdp 2, sequence 4", "drawn"),
]  # fmt: skip


@functools.cache
def model():
    module = checkpoint.family_of(subjects.PLAIN)
    sizes = dict(layers=2, dim=64, heads=4, kv_heads=2, head_dim=16, ffw=192)
    return module.make(
        dataclasses.replace(module.from_hf(module.EXAMPLE), **sizes), dtype=LOW
    )  # fmt: skip


@functools.cache
def params():
    """Weights in bfloat16, adapters in float32."""
    weights = subjects.jitter(jax.jit(model().init)(jax.random.key(0)), scale=0.1)
    start = lambda key, w: protocol.init(
        lora.make(rank=4, alpha=8.0), key, model().linears, w, where="blocks/**"
    )
    low = jax.tree.map(lambda leaf: leaf.astype(LOW), weights)
    return {"model": low, "adapters": jax.jit(start)(jax.random.key(1), weights)}


def losses(name, order):
    """Train on one batch on a mesh; returns the loss of every step, and that after the last."""
    axes = dict(data=1) | MESHES[name]
    mesh = meshes.make(**axes, devices=[jax.devices()[i] for i in ORDERS[order]])
    letters = states.axes(model(), params())
    places = meshes.shardings(letters, params(), mesh)
    # Copied, since the step overwrites what it is given.
    trainable, frozen = states.split(
        jax.device_put(jax.tree.map(jnp.copy, params()), places), ["adapters/**"]
    )
    tx = optax.adam(RATE)
    state = states.create(trainable, tx, key=jax.random.key(0))
    state = jax.device_put(state, states.shardings(state, letters, tx, mesh))
    dpo = subjects.OBJECTIVES["dpo"].make(beta=0.1)
    step = make_step(model(), dpo, tx, chunk=subjects.CHUNK)
    whole = jax.tree.map(lambda leaf: leaf.sharding, state)
    run = compiling.jit(step, mesh=mesh, state=whole, dtype=LOW)
    batch = subjects.answers(rows=ROWS, count=2)
    batch["examples"] = (batch["examples"] > 0).astype(np.float32)  # all weigh the same
    batch, found = meshes.put(batch, meshes.batch_shardings(batch, mesh)), []
    for _ in range(STEPS + 1):
        state, metrics = run(state, frozen, batch)
        found.append(float(metrics["loss"]))
    return found


def spread(cases):
    """Return how far the losses at the end lie apart; all runs begin at log 2, and leave it."""
    first, last = np.array([losses(*case) for case in cases])[:, [0, STEPS]].T
    np.testing.assert_allclose(first, math.log(2), atol=1e-4)
    assert (last < math.log(2) - 0.003).all()
    return np.ptp(last)


def test_a_run_does_not_depend_on_its_mesh():
    assert spread(FEW) <= MOST


@pytest.mark.slow
def test_no_mesh_and_no_order_of_devices_changes_a_run():
    assert spread(itertools.product(MESHES, ORDERS)) <= MOST


def test_sums_in_bfloat16_would_show(monkeypatch):
    """The test above can fail: here sums over devices and over tokens are rounded to bfloat16."""
    whole = sequence.sums

    def partial(equation, x, w):
        return jnp.einsum(equation, x, w, preferred_element_type=x.dtype)

    def over_tokens(values, batch):
        return whole(values.astype(LOW), batch).astype(jnp.float32)

    monkeypatch.setattr(products, "summed", partial)
    monkeypatch.setattr(sequence, "sums", over_tokens)
    assert spread([FEW[0], FEW[3]]) > MOST
