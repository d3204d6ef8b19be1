"""Laws of every penalty file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ftjax.penalties
from ftjax.adapters import adalora, lora
from ftjax.core import config as conf
from ftjax.core import tree
from ftjax.models.base import Linear
from ftjax.objectives import sft
from ftjax.optim import optimizer
from ftjax.penalties.lib import change, importance, path_integral
from ftjax.train import state as states
from ftjax.train import step as steps
from tests.laws import subjects

PENALTIES = subjects.modules_with(ftjax.penalties, "make")
LINEARS = {f"blocks/attn/{name}": Linear("BTD,DF->BTF", (6, 5), (0, 1)) for name in "qv"}
TRAINS = {"model/blocks/attn/q"}
IMPORTANCES = ("ewc", "mas", "si")  # of the weights, which a run leaves for the one after
each_penalty = pytest.mark.parametrize("name", PENALTIES)


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def params(scale=1.0):
    """Parameters with all that a penalty may look for."""
    svd = adalora.AdaLoRA(draw(0, 2, 6, 3), scale * draw(1, 2, 3), draw(2, 2, 3, 5), jnp.ones(2))
    tasks = lora.OffsetLoRA(
        draw(3, 2, 6, 3), scale * draw(4, 2, 3, 5), draw(5, 2, 6, 4), draw(6, 2, 4, 5), jnp.ones(2)
    )
    sites = {"blocks": {"attn": {"q": svd, "v": tasks}}}
    model = {"blocks": {"attn": {"q": draw(7, 2, 6, 5), "v": draw(8, 2, 6, 5)}}}
    return {"model": model, "adapters": sites}


def value_of(name, **changes):
    """Return `params -> value`, of arrays about other parameters."""
    module = PENALTIES[name]
    offered = dict(linears=LINEARS, trains=TRAINS)
    penalty = conf.call(module.make, module.EXAMPLE | changes, where=name, extra=offered)
    origin, arrays = params(0.5), {}
    start = PENALTIES["l2sp"].make(weight=1.0, **offered).prepare(origin, None, None, None)
    if name == "l2sp":
        arrays = start
    if name in IMPORTANCES:
        needed = {"q": 1 + draw(9, 2, 6, 5) ** 2, "v": 1 + draw(10, 2, 6, 5) ** 2}
        arrays = {"start": start, "importance": {"model": {"blocks": {"attn": needed}}}}
    return functools.partial(_value, penalty, arrays)


def _value(penalty, arrays, given):
    return penalty.value(given, arrays)


def test_every_penalty_has_an_example():
    assert PENALTIES
    assert subjects.modules_with(ftjax.penalties, "EXAMPLE") == PENALTIES


@each_penalty
def test_a_penalty_is_a_finite_scalar_that_scales_with_its_weight(name):
    value = value_of(name)(params())
    assert (value.shape, value.dtype) == ((), jnp.float32)
    assert np.isfinite(value)
    assert value > 0
    double = value_of(name, weight=2 * PENALTIES[name].EXAMPLE["weight"])(params())
    np.testing.assert_allclose(double, 2 * value, rtol=1e-6)
    assert value_of(name, weight=0.0)(params()) == 0


@each_penalty
def test_its_gradient_is_finite_and_points_uphill_on_its_own_paths(name):
    penalty, start = value_of(name), params()
    gradient = jax.grad(penalty)(start)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    touched = {path for path, leaf in tree.paths(gradient).items() if leaf.any()}
    assert touched
    shaken = tree.map_with_paths(lambda p, x: x if p in touched else x + 1, start)
    # Adding 1 to a frozen weight and taking it away again rounds.
    np.testing.assert_allclose(penalty(shaken), penalty(start), rtol=1e-5)
    lower = jax.tree.map(lambda x, g: x - 1e-4 * g, start, gradient)
    assert penalty(lower) < penalty(start)


@pytest.mark.parametrize("name", ["l2sp", *IMPORTANCES])
@pytest.mark.parametrize("way", ["lora", "full"])
def test_no_strength_is_a_run_without_the_penalty(name, way):
    """Bit for bit; and a strength holds the weights back."""
    plain, off, on = (trained(way, *given) for given in ((), (name, 0.0), (name, 100.0)))
    for ours, theirs in zip(jax.tree.leaves(off), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    pairs = zip(jax.tree.leaves(on), jax.tree.leaves(plain), strict=True)
    assert not all(np.array_equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("name", IMPORTANCES)
def test_a_past_run_counts_as_much_as_its_decay_says(name):
    module, given = PENALTIES[name], params()
    offered = dict(linears=LINEARS, trains=TRAINS)
    left = {"blocks/attn/q": jnp.full((2, 6, 5), 2.0), "blocks/mlp/up": jnp.ones((2, 3))}
    of = lambda **keys: conf.call(
        module.make, module.EXAMPLE | dict(past="runs/a", **keys), where=name, extra=offered
    )
    found = importance.add_past({"blocks/attn/q": jnp.full((2, 6, 5), 3.0)}, left, 0.5)
    np.testing.assert_array_equal(found["blocks/attn/q"], np.full((2, 6, 5), 4.0))
    np.testing.assert_array_equal(found["blocks/mlp/up"], np.full((2, 3), 0.5))
    assert of().past == "runs/a"
    assert of().leave is not None
    if name == "si":  # the others look at a model
        held = of().prepare(given, None, None, left)["importance"]["model"]
        np.testing.assert_array_equal(held["blocks"]["attn"]["q"], left["blocks/attn/q"])


@functools.cache
def trained(way, name=None, weight=None):
    """Return what trains after three steps."""
    model, whole = subjects.model("llama"), {"model": subjects.weights("llama"), "adapters": None}
    if way == "lora":
        whole["adapters"] = subjects.adapters("lora", "llama", where="blocks/mlp/**")
    pattern = "adapters/**" if way == "lora" else "model/blocks/mlp/**"
    trainable, frozen = states.split(whole, pattern)
    values, integral, options = {}, None, {}
    if name:
        keywords = PENALTIES[name].EXAMPLE | dict(weight=weight)
        trains = set(tree.paths(trainable))
        offered = dict(linears=model.linears, trains=trains)
        penalty = conf.call(PENALTIES[name].make, keywords, where=name, extra=offered)
        # What a past run has left, of those that find nothing themselves.
        paths = change.changing(whole, trains, name=name)
        past = {path: jnp.ones_like(tree.paths(whole["model"])[path]) for path in paths}
        past = past if name in IMPORTANCES else None
        prepare = jax.jit(lambda params, batch: penalty.prepare(params, model, batch, past))
        frozen |= {"penalties": {"p": prepare(whole, subjects.batch())}}
        values["p"] = penalty.value
        if penalty.integrates:
            integral = path_integral.abstract(whole, trains, model.linears)
            options["integrate"] = path_integral.make(model.linears)
    tx = optimizer.make(name="sgd", learning_rate=1e-3, schedule="constant", total_steps=3).tx
    make = steps.make_step
    made = make(model, sft.make(), tx, penalties=values, chunk=subjects.CHUNK, **options)
    step = jax.jit(made)
    state = states.create(trainable, tx, key=jax.random.key(0), integral=integral)
    for _ in range(3):
        state, _ = step(state, frozen, subjects.batch())
    return state.params
