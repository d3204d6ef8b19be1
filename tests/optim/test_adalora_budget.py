"""AdaLoRA's budget: how many ranks are kept, which ones, and until when."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ftjax.optim import adalora_budget, optimizer

KEYS = jax.random.split(jax.random.key(0), 4)
PARAMS = {
    "q": {"a": jax.random.normal(KEYS[0], (3, 5, 4)), "e": jnp.ones((3, 4)),
          "b": jax.random.normal(KEYS[1], (3, 4, 6))},
    "head": {"a": jax.random.normal(KEYS[2], (5, 4)), "e": jnp.ones(4),
             "b": jax.random.normal(KEYS[3], (4, 6))},
    "norm": jnp.ones(5), "hole": None,
}  # fmt: skip
MATRICES, RANK = 4, 4


def gradient(step):
    draw = lambda leaf: jax.random.normal(jax.random.key(step), leaf.shape)
    return jax.tree.map(draw, PARAMS)


def run(steps, **options):
    options = dict(target_rank=1, total_steps=10, init_steps=2, final_steps=3) | options
    tx = adalora_budget.make(optax.sgd(0.01), **options)
    params, state, kept = PARAMS, tx.init(PARAMS), []
    update = jax.jit(tx.update)
    for step in range(steps):
        moves, state = update(gradient(step), state, params)
        params = optax.apply_updates(params, moves)
        kept.append(sum(int((params[name]["e"] != 0).sum()) for name in ("q", "head")))
    return params, state, kept


def test_the_budget_falls_as_a_cubic_and_stays():
    kept = run(10)[2]
    assert kept[:2] == [MATRICES * RANK] * 2
    wanted = [int(MATRICES + MATRICES * (RANK - 1) * (1 - n / 5) ** 3) for n in range(1, 6)]
    assert kept[2:7] == wanted
    assert kept[7:] == [MATRICES] * 3


def test_between_allocations_ranks_may_come_back():
    kept = run(7, every_steps=2)[2]
    assert kept[3] < kept[4] == MATRICES * RANK  # allocated after 4 steps, free after 5
    assert kept[6] == MATRICES  # the last allocation comes whatever every_steps says


def test_the_least_sensitive_go_first():
    state, params = run(3)[1], PARAMS
    importance, deviation = (jax.tree.map(jnp.zeros_like, PARAMS) for _ in range(2))
    for step in range(3):
        g = gradient(step)
        params = jax.tree.map(lambda w, g: w - 0.01 * g, params, g)
        now = jax.tree.map(lambda w, g: abs(w * g), params, g)
        importance = jax.tree.map(lambda old, x: 0.85 * old + 0.15 * x, importance, now)
        deviation = jax.tree.map(
            lambda old, x, mean: 0.85 * old + 0.15 * abs(x - mean), deviation, now, importance
        )
    score = jax.tree.map(jnp.multiply, importance, deviation)
    joint = lambda x: x["e"] + x["a"].mean(-2) + x["b"].mean(-1)
    found = np.concatenate([np.ravel(joint(score[n])) for n in ("head", "q")])
    mask = np.concatenate([np.ravel(state.kept[n]["e"]) for n in ("head", "q")])
    assert 0 < mask.sum() < mask.size
    assert found[mask == 1].min() > found[mask == 0].max()


def test_nothing_else_moves_differently():
    params = run(10)[0]
    plain = PARAMS
    for step in range(10):
        plain = jax.tree.map(lambda w, g: w - 0.01 * g, plain, gradient(step))
    for name in ("a", "b"):
        np.testing.assert_allclose(params["q"][name], plain["q"][name], rtol=1e-5)
    np.testing.assert_allclose(params["norm"], plain["norm"], rtol=1e-5)


@pytest.mark.parametrize(
    "options", [dict(target_rank=0), dict(every_steps=0), dict(init_steps=7, final_steps=3)]
)
def test_phases_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match=r"optim\.ranks: got target_rank"):
        run(1, **options)


def test_parameters_without_ranks_are_refused():
    make = lambda **given: optimizer.make(
        name="adamw", learning_rate=0.1, schedule="constant", total_steps=5, ranks=given
    )
    with pytest.raises(ValueError, match=r"optim\.ranks: got parameters without"):
        make(target_rank=1).tx.init({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"optim\.ranks\.target: unknown key; did you mean"):
        make(target=1)


def test_importance_is_of_clipped_gradients():
    given = dict(name="sgd", learning_rate=0.01, schedule="constant", total_steps=10)
    tx = optimizer.make(**given, clip_norm=0.5, ranks=dict(target_rank=1)).tx
    g = gradient(0)
    moves, state = jax.jit(tx.update)(g, tx.init(PARAMS), PARAMS)
    norm = float(optax.tree.norm(g))
    assert norm > 1
    w = np.asarray(PARAMS["norm"] + moves["norm"])
    wanted = 0.15 * abs(w * np.asarray(g["norm"]) * 0.5 / norm)
    np.testing.assert_allclose(state.importance["norm"], wanted, rtol=1e-5)
