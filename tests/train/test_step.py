"""What a step counts, adds and keeps besides the loss, of one number and no model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ftjax.core.mean import Mean
from ftjax.train import reference_policy
from ftjax.train import state as states
from ftjax.train.step import make_step

X = np.float32([1, 2, 3, 6])
BATCH = {"x": X, "segments": np.int32([[1, 1, 0], [1, 2, 2], [1, 0, 0], [1, 1, 1]])}


def product(policy, reference, batch, key):
    """Return the mean of w x."""
    return {"loss": Mean.of(policy.params["model"]["w"] * batch["x"])}


def trained(batch=BATCH, *, dtype=jnp.float32, ema=False, **options):
    """Take one step of plain descent from w = 1 at rate 0.1; returns (state, metrics)."""
    tx = optax.sgd(0.1)
    start = {"model": {"w": jnp.ones((), dtype)}, "adapters": None}
    state = states.create(start, tx, key=jax.random.key(0), ema=ema)
    step = make_step(None, product, tx, **options)
    return step(state, {"model": {"w": None}, "adapters": None}, batch)


def test_it_descends_and_counts_tokens_without_padding():
    state, metrics = trained(learning_rate=lambda n: 0.1 + n)
    assert int(state.step) == 1
    assert float(state.params["model"]["w"]) == pytest.approx(1 - 0.1 * 3)
    assert int(metrics["tokens"]) == 9
    assert float(metrics["grad_norm"]) == pytest.approx(3)
    assert float(metrics["learning_rate"]) == pytest.approx(0.1)


def test_microbatches_and_penalties_add_up():
    square = lambda params, arrays: 2 * params["model"]["w"] ** 2
    for accumulate in (1, 2):
        state, metrics = trained(accumulate=accumulate, penalties={"square": square})
        assert float(state.params["model"]["w"]) == pytest.approx(1 - 0.1 * (3 + 4))
        assert float(metrics["penalty/square"]) == pytest.approx(2)
        assert float(metrics["loss"]) == pytest.approx(3)


def test_the_optimizer_is_offered_more_gradients_of_the_batch():
    """Of all that is differentiated, and of terms that are no part of it."""
    seen = {}

    def update(grads, state, params, *, gradient, anchors):
        at = {"model": {"w": jnp.float32(2)}, "adapters": None}
        seen["whole"], seen["old"] = gradient(at)["model"]["w"], anchors["old"](at)["model"]["w"]
        return jax.tree.map(jnp.zeros_like, grads), state

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    start = {"model": {"w": jnp.float32(1)}, "adapters": None}
    square = lambda params, arrays: 2 * params["model"]["w"] ** 2
    term = lambda policy, reference, batch, key: Mean.of(policy.params["model"]["w"] ** 2 * batch)
    step = make_step(
        None, product, tx, penalties={"square": square}, projected={"old": (term, 1.0)},
        accumulate=2,
    )  # fmt: skip
    state = states.create(start, tx, key=jax.random.key(0))
    batch = BATCH | {"anchors": {"old": X}}
    _, metrics = step(state, {"model": {"w": None}, "adapters": None}, batch)
    assert float(seen["whole"]) == pytest.approx(3 + 8)
    assert float(seen["old"]) == pytest.approx(2 * 2 * 3)
    assert float(metrics["loss"]) == pytest.approx(3)  # the projected term is not in it


def test_the_average_follows_the_new_weights():
    state, _ = trained(ema=True, ema_decay=0.75)
    w = float(state.params["model"]["w"])
    assert float(state.ema["model"]["w"]) == pytest.approx(1 + 0.25 * (w - 1))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_reference_that_follows_is_the_average_before_the_step(accumulate):
    """By hand: (w - m)^2 x has the gradient 2 (w - m) mean x, of which nothing is m's."""

    def apart(policy, reference, batch, key):
        w, m = (each.params["model"]["w"] for each in (policy, reference))
        return {"loss": Mean.of((w - m + 1) ** 2 * batch["x"])}

    tx = optax.sgd(0.1)
    start = {"model": {"w": jnp.float32(1)}, "adapters": None}
    state = states.create(start, tx, key=jax.random.key(0), ema=True)
    step = make_step(None, apart, tx, reference=reference_policy.frozen, follows=True,
                     ema_decay=0.75, accumulate=accumulate)  # fmt: skip
    w = m = 1.0
    for _ in range(3):
        state, _ = step(state, {"model": {"w": None}, "adapters": None}, BATCH)
        w -= 0.1 * 2 * (w - m + 1) * 3
        m += 0.25 * (w - m)
        assert float(state.params["model"]["w"]) == pytest.approx(w)
        assert float(state.ema["model"]["w"]) == pytest.approx(m)
    assert abs(w - m) > 0.1


def test_sums_over_microbatches_are_float32():
    """In bfloat16 the 63 small gradients after a large one would each round away."""
    x = np.float32([64] + [2**-3] * 63)
    batch = {"x": x, "segments": np.ones((64, 1), np.int32)}
    _, metrics = trained(batch, dtype=jnp.bfloat16, accumulate=64)
    assert float(metrics["grad_norm"]) == pytest.approx(x.mean(), rel=1e-3)


def test_what_is_not_kept_stays_and_counts_nowhere():
    """Two layers of one array, of which one trains: no gradient, no decay, no norm of the other."""
    keep = lambda tree: jax.tree.map(lambda w: w * np.float32([1, 0]), tree)
    loss = lambda policy, *_: {"loss": Mean.of((policy.params["model"]["w"] * X[:2]).sum()[None])}
    square = lambda params, arrays: (params["model"]["w"] ** 2).sum()
    seen = {}

    def update(grads, state, params, *, gradient, anchors):
        seen["again"] = gradient(params)["model"]["w"]
        return jax.tree.map(lambda g, w: -0.1 * (g + w), grads, params), state

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    start = {"model": {"w": jnp.ones(2)}, "adapters": None}
    state = states.create(start, tx, key=jax.random.key(0), ema=False)
    step = make_step(None, loss, tx, penalties={"square": square}, keep=keep)
    state, metrics = step(state, {"model": {"w": None}, "adapters": None}, BATCH)
    np.testing.assert_allclose(state.params["model"]["w"], [1 - 0.1 * (1 + 2 + 1), 1])
    np.testing.assert_allclose(seen["again"], [3, 0])
    assert float(metrics["grad_norm"]) == pytest.approx(3)
