"""Laws of a training step: for every objective, every adapter method, and full fine-tuning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters.lib import protocol
from ftjax.core import tree
from ftjax.core.mean import Mean
from ftjax.objectives import sft
from ftjax.optim import optimizer
from ftjax.train import state as states
from ftjax.train import step as steps
from ftjax.train.policy import Policy
from tests.laws import subjects

FAMILY = subjects.PLAIN
WAYS = {name: "adapters/**" for name in subjects.ADAPTERS} | {
    "full": "model/**",
    "norms": ["model/**norm"],
}
each_objective = pytest.mark.parametrize("objective", subjects.OBJECTIVES)
each_adapter = pytest.mark.parametrize("adapter", subjects.ADAPTERS)
each_of_weights = pytest.mark.parametrize("adapter", subjects.OF_WEIGHTS)
each_way = pytest.mark.parametrize("way", WAYS)


def params_of(way):
    adapters = None
    if way in subjects.ADAPTERS:
        adapters = subjects.randomised(subjects.adapters(way, FAMILY))
    return {"model": subjects.weights(FAMILY), "adapters": adapters}


def objective_of(name):
    return subjects.OBJECTIVES[name].make(**subjects.OBJECTIVES[name].EXAMPLE)


@functools.cache
def gradients_of(objective, way, accumulate):
    """Compute gradients and metrics of one batch."""
    params = subjects.params_for(objective, params_of(way))
    trainable, frozen = states.split(params, WAYS[way])
    run = steps.make_gradients(
        subjects.model(FAMILY), objective_of(objective), accumulate=accumulate,
        chunk=subjects.CHUNK, reference=subjects.reference_for(objective),
    )  # fmt: skip
    call = jax.jit(lambda trainable, batch: run(trainable, frozen, batch, jax.random.key(0), same))
    return call(trainable, subjects.batch_for(objective))


def same(x):
    return x


def holes(structure):
    return jax.tree.structure(structure, is_leaf=lambda x: x is None)


def test_every_objective_is_found():
    assert subjects.OBJECTIVES
    assert set(subjects.OBJECTIVES) == set(subjects.modules_with(subjects.ftjax.objectives, "make"))


@each_way
def test_combining_the_parts_gives_the_whole(way):
    params = params_of(way)
    trainable, frozen = states.split(params, WAYS[way])
    again = tree.combine(trainable, frozen)
    assert tree.paths(again).keys() == tree.paths(params).keys()
    for path, leaf in tree.paths(again).items():
        assert leaf is tree.paths(params)[path]
    assert not tree.paths(trainable).keys() & tree.paths(frozen).keys()


@each_way
def test_gradients_exist_for_what_trains_and_nothing_else(way):
    trainable, _ = states.split(params_of(way), WAYS[way])
    grads, _ = gradients_of("sft", way, 1)
    assert holes(grads) == holes(trainable)
    assert tree.paths(grads).keys() == tree.paths(trainable).keys()
    for path, gradient in tree.paths(grads).items():
        assert np.abs(gradient).max() > 0, path


@each_adapter
def test_data_of_adapters_never_trains(adapter):
    params = params_of(adapter)
    trainable, _ = states.split(params, "**")
    data = {
        f"adapters/{path}/{name}"
        for path, found in protocol.sites(params["adapters"]).items()
        for name in found.FROZEN
    }
    assert not data & tree.paths(trainable).keys()
    assert data | tree.paths(trainable).keys() == tree.paths(params).keys()


def plain_mean(objective, batches):
    """Compute the loss over batches by its definition, and its gradient by one `jax.grad`."""
    model, params = subjects.model(FAMILY), subjects.params_for(objective, params_of("full"))
    call, refer = objective_of(objective), subjects.reference_for(objective)

    def loss(weights):
        policy = Policy(model, params | {"model": weights}, subjects.CHUNK)
        fixed = Policy(model, jax.lax.stop_gradient(policy.params), subjects.CHUNK)
        found = [call(policy, refer(fixed, b), b, jax.random.key(0))["loss"] for b in batches]
        terms = zip(*(f if isinstance(f, tuple) else (f,) for f in found), strict=True)
        return sum(functools.reduce(Mean.__add__, term).value() for term in terms)

    return jax.jit(jax.value_and_grad(loss))(params["model"])


@each_objective
def test_four_microbatches_are_one_batch(objective):
    """One whose rows depend on each other says so in its SPEC: then they are four batches."""
    parts, four = gradients_of(objective, "full", 4)
    batch = subjects.batch_for(objective)
    module = subjects.OBJECTIVES[objective]
    if module.SPEC.couples(module.EXAMPLE):
        cut = [jax.tree.map(lambda x, i=i: x[i::4], batch) for i in range(4)]
        loss, expected = plain_mean(objective, cut)
        subjects.close(parts["model"], expected)
        subjects.close(four["loss"], loss)
        return
    whole, one = gradients_of(objective, "full", 1)
    # Rounding of a sum goes with its largest terms, and the bound with them: XPO's gradients go up
    # to 13, those of all others to 1.
    largest = max(1.0, *(float(np.abs(x).max()) for x in jax.tree.leaves(whole)))
    share = lambda gradients: jax.tree.map(lambda x: x / largest, gradients)
    subjects.close(share(parts), share(whole), atol=2e-6)
    assert one.keys() == four.keys()
    for name, metric in one.items():
        value = lambda m: m.value() if isinstance(m, Mean) else m
        subjects.close(value(four[name]), value(metric))


@each_objective
def test_the_gradient_is_that_of_the_plain_mean(objective):
    """One `jax.grad` of the objective's mean, without the step's bookkeeping."""
    _, expected = plain_mean(objective, [subjects.batch_for(objective)])
    subjects.close(gradients_of(objective, "full", 1)[0]["model"], expected)


@each_of_weights
def test_fresh_adapters_are_the_base_policy(adapter):
    model, batch = subjects.model(FAMILY), subjects.batch()
    fresh = subjects.adapters(adapter, FAMILY)
    params = {"model": subjects.weights(FAMILY), "adapters": fresh}

    def both(params):
        policy = Policy(model, params, subjects.CHUNK)
        assert policy.without_adapters().params["adapters"] is None
        return policy.logps(batch), policy.without_adapters().logps(batch)

    adapted, off = jax.jit(both)(params)
    subjects.close(adapted, off, atol=1e-6)


@each_of_weights
@pytest.mark.parametrize("where", ["blocks/**", "head"])
def test_a_merged_model_is_the_adapted_one(adapter, where):
    model, params = subjects.model(FAMILY, tied=False), subjects.weights(FAMILY, tied=False)
    batch = subjects.batch()
    found = subjects.randomised(subjects.adapters(adapter, FAMILY, where=where, tied=False))
    merged = protocol.merge(params, found, model.linears)
    run = jax.jit(lambda params: Policy(model, params, subjects.CHUNK).logps(batch))
    adapted, plain, without = (
        run({"model": w, "adapters": a})
        for w, a in ((params, found), (merged, None), (params, None))
    )
    subjects.close(adapted, plain, atol=1e-4)
    assert np.abs(adapted - without).max() > 1e-3


@each_way
def test_three_steps(way):
    """Frozen arrays keep their bytes, trainable ones move, the step compiles once."""
    params = params_of(way)
    optim = optimizer.make(
        name="adamw", learning_rate=1e-2, schedule="constant", total_steps=3, clip_norm=1.0
    )
    trainable, frozen = states.split(params, WAYS[way])
    before = jax.tree.map(np.array, params)
    step = jax.jit(
        steps.make_step(subjects.model(FAMILY), sft.make(), optim.tx, chunk=subjects.CHUNK),
        donate_argnums=0,
    )
    fresh = jax.tree.map(jnp.copy, trainable)
    state, losses = states.create(fresh, optim.tx, key=jax.random.key(0)), []
    structure = jax.tree.structure(state)
    for _ in range(3):
        state, metrics = step(state, frozen, subjects.batch())
        losses.append(float(metrics["loss"]))
    assert step._cache_size() == 1
    assert jax.tree.structure(state) == structure
    assert int(state.step) == 3
    assert losses[2] < losses[0]
    after = tree.paths(tree.combine(state.params, frozen))
    for path, leaf in tree.paths(before).items():
        moved = not np.array_equal(leaf, after[path])
        assert moved == (path in tree.paths(trainable)), path


@each_adapter
def test_float32_adapters_over_a_bfloat16_base(adapter):
    params = params_of(adapter)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["model"])
    trainable, frozen = states.split(params | {"model": half}, "adapters/**")
    optim = optimizer.make(name="adamw", learning_rate=1e-2, schedule="constant", total_steps=3)
    model = subjects.model(FAMILY, dtype=jnp.bfloat16)
    step = jax.jit(steps.make_step(model, sft.make(), optim.tx, chunk=subjects.CHUNK))
    state = states.create(trainable, optim.tx, key=jax.random.key(0))
    state, metrics = step(state, frozen, subjects.batch())
    exact = gradients_of("sft", adapter, 1)[1]["nll"].value()
    assert float(metrics["nll"].value()) == pytest.approx(float(exact), rel=0.05)
    floats = [x for x in jax.tree.leaves(state.opt_state) if jnp.issubdtype(x.dtype, jnp.floating)]
    for leaf in jax.tree.leaves(state.params) + floats:
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
