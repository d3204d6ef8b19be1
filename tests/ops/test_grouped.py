"""Grouped rows against a loop over experts, on one device and on several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.ops import fast, grouped, moe
from ftjax.ops.fast import cpu, plain

E, D, F, TOP = 4, 6, 10, 2
SIZES = dict(E=E, D=D, F=F, C=2)


def draw(letters, seed):
    return jax.random.normal(jax.random.key(seed), [SIZES[c] for c in letters])


@pytest.mark.parametrize(
    "experts", [[2, 0, 1, 2, 2, 0, 3], [1, 1, 1], [4, -1, 0], [0] * 70 + [3] * 41]
)
def test_every_row_has_a_place_with_its_expert(experts):
    groups, places = jax.device_get(grouped.arrange(jnp.array(experts), experts=E))
    size, block = len(places.row_at), len(places.row_at) // len(groups.expert_J)
    starts = np.cumsum(groups.counts_E) - groups.counts_E
    inside = [i for i, e in enumerate(experts) if 0 <= e < E]
    assert len({int(places.of_row[i]) for i in inside}) == len(inside)
    for i, expert in enumerate(experts):
        at = int(places.of_row[i])
        if i not in inside:
            assert at == size
            continue
        assert starts[expert] <= at < starts[expert] + groups.counts_E[expert]
        assert int(groups.expert_J[at // block]) == expert
        assert int(places.row_at[at]) == i
    empty = set(range(size)) - {int(places.of_row[i]) for i in inside}
    assert all(int(places.row_at[at]) == len(experts) for at in empty)


@pytest.mark.parametrize(
    ("equation", "y"),
    [("EBTD,EDF->EBTF", "xd,df->xf"), ("EBTD,EDCF->EBTCF", "xd,dcf->xcf"),
     ("EBTF,EFD->EBTD", "xf,fd->xd"), ("EBTCF,EDCF->EBTD", "xcf,dcf->xd")],
)  # fmt: skip
@pytest.mark.parametrize("form", [cpu, plain])
def test_contraction_gives_every_row_its_experts_weight(equation, y, form, monkeypatch):
    monkeypatch.setattr(fast, "grouped_matmul", form.grouped_matmul)
    expert = jnp.array([2, 0, 2, 2, 1, 0, 2, 2, 2])
    groups, places = grouped.arrange(expert, experts=E)
    x_letters, w_letters = equation.split("->")[0].split(",")
    x = jax.random.normal(jax.random.key(0), (len(expert), *(SIZES[c] for c in x_letters[3:])))
    w = draw(w_letters, 1)

    @jax.jit
    def contract(groups, places, x, w):
        sorted_x = x.at[places.row_at].get(mode="fill", fill_value=0)
        return grouped.contract(groups, equation, sorted_x, w)[places.of_row]

    got = contract(groups, places, x, w)
    x, w = np.asarray(x), np.asarray(w)
    wanted = np.stack([np.einsum(y, x[i : i + 1], w[e])[0] for i, e in enumerate(expert)])
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def run(weights, x, contract, part=0):
    up, down = weights
    return contract("EBTF,EFD->EBTD", jax.nn.silu(contract("EBTD,EDF->EBTF", x, up)), down)


LETTERS = ("EDF", "EFD")


def dense(x, choice, weights):
    """All experts for all tokens: the definition."""
    up, down = weights
    y = jnp.einsum("BTEF,EFD->BTED", jax.nn.silu(jnp.einsum("BTD,EDF->BTEF", x, up)), down)
    gate = jnp.einsum("BTk,BTkE->BTE", choice.gate, jax.nn.one_hot(choice.expert, E))
    return jnp.einsum("BTED,BTE->BTD", y, gate)


def inputs():
    weights = draw("EDF", 1), draw("EFD", 2)
    x = jax.random.normal(jax.random.key(3), (4, 6, D))
    return weights, x, draw("DE", 4)


def outputs(serve, weights, x, router):
    """Compute the answers and the gradient by everything."""

    def loss(weights, x, router):
        choice = moe.route(jnp.einsum("BTD,DE->BTE", x, router), top=TOP, normalise=True)
        y = serve(x, choice, weights)
        return jnp.square(y).sum(), y

    return jax.grad(loss, (0, 1, 2), has_aux=True)(weights, x, router)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), a, b)


def served(x, choice, weights):
    return grouped.dropless(run, x, choice, weights, LETTERS)


def seated(x, choice, weights, *, factor):
    segments = jnp.ones(x.shape[:2], int)
    seats = moe.capacity(x.shape[1], experts=E, top=TOP, factor=factor)
    found = moe.seat(choice, segments, experts=E, seats=seats)
    y = run(weights, meshes.constrain(moe.to_seats(x, found), "EBTD"), jnp.einsum)
    return moe.from_seats(meshes.constrain(y, "EBTD"), found)


enough = functools.partial(seated, factor=E / TOP)
few = functools.partial(seated, factor=0.5)


@pytest.fixture(scope="module")
def wanted():
    return jax.jit(functools.partial(outputs, dense))(*inputs())


@pytest.mark.parametrize("serve", [served, enough], ids=["dropless", "enough capacity"])
def test_dispatch_is_all_experts_for_all_tokens(serve, wanted):
    close(jax.jit(functools.partial(outputs, serve))(*inputs()), wanted)


def test_too_little_capacity_is_something_else(wanted):
    y = jax.jit(functools.partial(outputs, few))(*inputs())[1]
    assert np.abs(y - wanted[1]).max() > 0.1
    unserved = ~np.asarray(y).any(-1)
    assert 0 < unserved.sum() < unserved.size


@pytest.mark.parametrize(
    "sizes",
    [dict(data=1, expert=2, tensor=1), dict(data=2, fsdp=2, expert=1, tensor=2),
     dict(data=1, fsdp=2, expert=2, tensor=2), dict(data=1, expert=3)],
)  # fmt: skip
@pytest.mark.parametrize("serve", [served, few], ids=["dropless", "capacity"])
def test_many_devices_are_one(sizes, serve, wanted):
    wanted = wanted if serve is served else jax.jit(functools.partial(outputs, serve))(*inputs())
    count = int(np.prod(list(sizes.values())))
    mesh = meshes.make(**sizes, devices=jax.devices()[:count])
    weights, x, router = inputs()
    places = meshes.shardings((LETTERS, "BTD", "DE"), (weights, x, router), mesh)
    placed = jax.device_put((weights, x, router), places)
    if sizes["expert"] == 2:
        assert placed[0][0].sharding.shard_shape(weights[0].shape)[0] == E // 2
    with jax.set_mesh(mesh):
        close(jax.jit(functools.partial(outputs, serve))(*placed), wanted)


def test_members_of_a_sweep(wanted):
    many = jax.vmap(functools.partial(outputs, served))
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), inputs())
    close(jax.tree.map(lambda x: x[1], jax.jit(many)(*twice)), wanted)
