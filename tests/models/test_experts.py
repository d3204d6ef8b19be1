"""Models with experts as a whole: dispatch, devices, adapters of experts, the router's loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.models.families import mixtral
from ftjax.objectives import sft
from ftjax.train import state as states
from ftjax.train import step as steps
from tests.laws import subjects

CONFIG = mixtral.from_hf(mixtral.EXAMPLE)
ENOUGH = dict(dispatch="capacity", capacity_factor=CONFIG.experts / CONFIG.top)
FEW = dict(dispatch="capacity", capacity_factor=0.5)
TRAINS = ["adapters/**", "model/blocks/moe/*"]


def make(**options):
    return mixtral.make(CONFIG, **options)


@functools.cache
def params():
    """Draw weights, and LoRA adapters of the experts and their router."""
    model, method = make(), lora.make(rank=2, alpha=4.0)
    weights = subjects.jitter(jax.jit(model.init)(jax.random.key(0)), scale=0.1)
    draw = lambda key, w: protocol.init(method, key, model.linears, w, where="blocks/moe/*")
    adapters = jax.jit(draw)(jax.random.key(1), weights)
    return {"model": weights, "adapters": subjects.randomised(adapters)}


def gradients(model, params, batch):
    """Compute the gradient of the loss, and the metrics."""
    trainable, frozen = states.split(params, TRAINS)
    run = steps.make_gradients(model, sft.make(), chunk=subjects.CHUNK)
    found, metrics = run(trainable, frozen, batch, jax.random.key(0), lambda x: x)
    values = {n: m if isinstance(m, jax.Array) else m.value() for n, m in metrics.items()}
    return tree.paths(found), values


@functools.cache
def alone(**options):
    """Take the gradient on one device."""
    return jax.jit(functools.partial(gradients, make(**options)))(params(), subjects.batch())


def test_the_loss_is_that_of_the_tokens_and_of_the_router():
    grads, metrics = alone()
    assert set(metrics) == {"loss", "nll", "router/balance", "router/dropped"}
    total = metrics["nll"] + CONFIG.router_aux * metrics["router/balance"]
    assert float(metrics["loss"]) == pytest.approx(float(total), rel=1e-6)
    assert metrics["router/dropped"] == 0
    assert all(np.abs(gradient).max() > 0 for gradient in grads.values())
    assert {"adapters/blocks/moe/gate_up/b", "model/blocks/moe/router"} <= grads.keys()


def test_enough_capacity_is_dropless():
    subjects.close(alone(**ENOUGH), alone())


def test_too_little_capacity_drops_and_counts():
    _, metrics = alone(**FEW)
    assert 0 < float(metrics["router/dropped"]) < 1
    assert float(metrics["nll"]) != pytest.approx(float(alone()[1]["nll"]), rel=1e-4)


@pytest.mark.parametrize("other", ["fsdp", "sequence"])
@pytest.mark.parametrize("options", [dict(), FEW], ids=["dropless", "capacity"])
def test_experts_over_devices_are_those_of_one(options, other):
    mesh = meshes.make(data=1, expert=2, tensor=2, **{other: 2})
    model, given, batch = make(**options), params(), subjects.batch()
    places = meshes.shardings(states.axes(model, given), given, mesh)
    placed = jax.tree.map(jax.device_put, given, places)
    shape = placed["model"]["blocks"]["moe"]["gate_up"].sharding.shard_shape
    layers, parts = CONFIG.layers, 2
    whole = (layers, CONFIG.experts, CONFIG.dim, parts, CONFIG.expert_ffw)
    assert shape(whole) == (layers, CONFIG.experts // 2, CONFIG.dim // 2, parts, whole[-1] // 2)
    own = placed["adapters"]["blocks"]["moe"]["down"].b
    assert own.sharding.shard_shape(own.shape)[2] == CONFIG.experts // 2
    rows = jax.device_put(batch, meshes.batch_shardings(batch, mesh))
    with jax.set_mesh(mesh):
        found = jax.jit(functools.partial(gradients, model))(placed, rows)
    subjects.close(found, alone(**options))


def test_a_merged_model_is_the_adapted_one():
    given, batch = params(), subjects.batch()
    run = jax.jit(lambda model, weights, adapters: subjects.forward(
        model, weights, batch, adapters=adapters), static_argnums=0)  # fmt: skip
    merged = protocol.merge(given["model"], given["adapters"], make().linears)
    adapted, plain = (run(make(), w, a) for w, a in ((given["model"], given["adapters"]),
                                                     (merged, None)))  # fmt: skip
    seen = batch["segments"] > 0
    subjects.close(adapted[seen], plain[seen], atol=1e-4)
    off = run(make(), given["model"], None)
    assert float(jnp.abs(off - adapted)[seen].max()) > 1e-3


def test_dropout_of_experts_needs_a_key():
    given = params()
    init = lora.make(rank=2, alpha=4.0, dropout=0.5)
    draw = lambda: protocol.init(
        init, jax.random.key(1), make().linears, given["model"], where="blocks/moe/down"
    )
    adapters = subjects.randomised(jax.jit(draw)())
    run = lambda key: subjects.forward(
        make(), given["model"], subjects.batch(), adapters=adapters, key=key
    )
    first, again, other = (run(key) for key in (None, None, jax.random.key(0)))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-4


def router_run(name):
    """Return what computes the metrics of an objective over experts, of a weight of their loss."""
    module = subjects.OBJECTIVES[name]
    given = subjects.params_for(name, params() | {"adapters": None})
    trainable, frozen = states.split(given, "model/blocks/moe/router")
    return lambda router_aux: steps.make_gradients(
        make(router_aux=router_aux), module.make(**module.EXAMPLE), chunk=subjects.CHUNK,
        reference=subjects.reference_for(name),
    )(trainable, frozen, subjects.batch_for(name), jax.random.key(0), lambda x: x)[1]  # fmt: skip


@pytest.mark.parametrize("name", subjects.OBJECTIVES)
def test_every_objective_balances_the_router(name):
    found = jax.eval_shape(functools.partial(router_run(name), 1.0))
    assert "router/balance" in found


@pytest.mark.parametrize("name", subjects.by_data())
def test_the_routers_loss_is_part_of_the_objectives(name):
    run = router_run(name)
    found, without = jax.jit(lambda: (run(1.0), run(0.0)))()
    added = float(found["loss"] - without["loss"])
    assert added == pytest.approx(float(found["router/balance"].value()), rel=1e-3)
