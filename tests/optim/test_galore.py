"""GaLore: moments of the largest directions, moves back in the form of the weight."""

import jax
import numpy as np
import pytest

from ftjax.optim import galore
from ftjax.optim import optimizer as chain

VIEWS = {
    "model/q": galore.View("BTD,DNH->BTNH", True), "model/head": galore.View("BTD,VD->BTV", False),
    "model/down": galore.View("BTF,FD->BTD", False),
}  # fmt: skip


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


PARAMS = {"model": {
    "q": draw(0, 3, 4, 2, 5), "head": draw(1, 6, 4), "norm": draw(2, 4), "down": draw(3, 9, 4),
}}  # fmt: skip
GRADS = jax.tree.map(lambda w: draw(w.size, *w.shape), PARAMS)


def make(name="sgd", **keys):
    return chain.make(
        name=name, learning_rate=0.1, schedule="constant", total_steps=9, views=VIEWS, galore=keys,
    ).tx  # fmt: skip


def best(matrix, rank):
    u, s, v = np.linalg.svd(matrix)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def test_plain_descent_goes_along_the_largest_directions():
    """P P^T g is the best approximation of its rank of g, whichever side P is of."""
    tx = make(rank=2, scale=0.5)
    moves, _ = jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)
    for layer in range(3):
        g = np.asarray(GRADS["model"]["q"][layer]).reshape(4, 10)
        got = moves["model"]["q"][layer].reshape(4, 10)
        np.testing.assert_allclose(got, -0.1 * 0.5 * best(g, 2), rtol=1e-3, atol=1e-5)
    for name in ("head", "down"):
        g = np.asarray(GRADS["model"][name])
        np.testing.assert_allclose(moves["model"][name], -0.05 * best(g, 2), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(moves["model"]["norm"], -0.1 * GRADS["model"]["norm"], rtol=1e-6)


def test_moments_are_as_small_as_the_rank():
    state = make("adamw", rank=2).init(PARAMS)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.inner.inner)}
    assert shapes == {(), (3, 2, 10), (2, 6), (9, 2), (4,)}


def test_what_is_no_wider_than_the_rank_is_not_projected():
    plain = chain.make(name="adam", learning_rate=0.1, schedule="constant", total_steps=9).tx
    tx = make("adam", rank=4)
    both = (each.update(GRADS, each.init(PARAMS), PARAMS)[0] for each in (tx, plain))
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_the_subspace_is_found_anew_when_it_is_time():
    tx = make(rank=1, every_steps=2)
    state, seen = tx.init(PARAMS), []
    for n in range(3):
        grads = jax.tree.map(lambda w, n=n: draw(7 * n + w.size, *w.shape), PARAMS)
        state = tx.update(grads, state, PARAMS)[1]
        seen.append(np.asarray(state.inner.projections["model"]["q"]))
    np.testing.assert_array_equal(seen[1], seen[0])
    assert not np.allclose(seen[2], seen[1])
    np.testing.assert_allclose((seen[2] ** 2).sum(-2), 1, rtol=1e-5)


def test_a_direction_that_reads_weights_is_refused():
    with pytest.raises(ValueError, match=r"optim\.galore: got a value with 'lamb'"):
        make("lamb", rank=2)


def test_its_state_has_a_place_on_a_mesh():
    mesh = jax.make_mesh((2,), ("fsdp",), devices=jax.devices()[:2])
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    tx = make("adamw", rank=2)
    places = chain.state_shardings(tx, PARAMS, jax.tree.map(lambda _: spec, PARAMS))
    state = tx.init(PARAMS)
    assert jax.tree.structure(places) == jax.tree.structure(state)
