"""Synaptic intelligence: the path integral is what the loss fell by, and what is left of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import tree
from ftjax.models.base import Linear
from ftjax.objectives import sft
from ftjax.optim import optimizer
from ftjax.penalties import si
from ftjax.penalties.lib import path_integral
from ftjax.train import state as states
from ftjax.train import step as steps
from tests.laws import subjects

RATE = 0.005  # the sum of g dw is the integral only where steps are short


@pytest.mark.parametrize("way", ["full", "lora"])
def test_the_integral_of_all_weights_is_the_fall_of_the_loss(way):
    model, whole = subjects.model("llama"), {"model": subjects.weights("llama"), "adapters": None}
    if way == "lora":
        adapters = subjects.adapters("lora", "llama", where="blocks/mlp/**")
        whole["adapters"] = subjects.randomised(adapters, scale=0.1)
    trainable, frozen = states.split(whole, "adapters/**" if way == "lora" else "model/**")
    tx = optimizer.make(name="sgd", learning_rate=RATE, schedule="constant", total_steps=4).tx
    trains = set(tree.paths(trainable))
    state = states.create(
        trainable, tx, key=jax.random.key(0),
        integral=path_integral.abstract(whole, trains, model.linears),
    )  # fmt: skip
    step = jax.jit(steps.make_step(
        model, sft.make(), tx, chunk=subjects.CHUNK, integrate=path_integral.make(model.linears),
    ))  # fmt: skip
    losses, first = [], state.params
    for _ in range(4):
        state, metrics = step(state, frozen, subjects.batch())
        losses.append(float(metrics["loss"]))
        if len(losses) == 1 and way == "full":
            # One step of plain descent: g = (before - after) / rate, and so g (before - after).
            wanted = jax.tree.map(lambda a, b: jnp.square(a - b) / RATE, first, state.params)
            subjects.close(state.integral["model"], wanted["model"], atol=1e-6)
    fall = losses[0] - float(step(state, frozen, subjects.batch())[1]["loss"])
    assert fall > 1e-3
    total = sum(float(leaf.sum()) for leaf in jax.tree.leaves(state.integral))
    assert total == pytest.approx(fall, rel=0.1)


def test_what_is_left_is_the_gain_over_the_squared_change():
    linears = {"q": Linear("BTD,DF->BTF", (2, 3), None)}
    make = functools.partial(si.make, weight=1.0, damping=0.5, linears=linears, trains={"model/q"})
    start, left = jnp.ones((2, 3)), {"q": jnp.full((2, 3), 4.0)}
    origin = {"model": {"q": start}, "adapters": None}
    penalty = make(decay=0.25)
    arrays = penalty.prepare(origin, None, None, left)
    moved = {"model": {"q": start + jnp.float32([[0, 1, 2], [0, 1, 2]])}, "adapters": None}
    # weight / 2 * sum 4 (w - w_start)^2
    np.testing.assert_allclose(penalty.value(moved, arrays), 4 / 2 * 10)
    gains = {"model": {"q": jnp.float32([[1, 1, 1], [-1, -1, -1]])}}
    wanted = np.array([[1 / 0.5, 1 / 1.5, 1 / 4.5], [0, 0, 0]]) + 0.25 * 4
    np.testing.assert_allclose(penalty.leave(moved, arrays, gains)["q"], wanted, rtol=1e-6)


def test_the_first_of_a_sequence_is_free_and_weight_0_takes_nothing():
    linears = {"q": Linear("BTD,DF->BTF", (2, 3), None)}
    given = {"model": {"q": jnp.ones((2, 3))}, "adapters": None}
    first = si.make(weight=1.0, linears=linears, trains={"model/q"})
    arrays = first.prepare(given, None, None, None)
    assert first.value({"model": {"q": jnp.zeros((2, 3))}, "adapters": None}, arrays) == 0
    off = si.make(weight=0.0, linears=linears, trains={"model/q"})
    assert (off.integrates, off.leave) == (False, None)
