"""Routing, the load-balancing loss and seats of a mixture of experts, by closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.ops import moe

EXPERTS, TOP = 4, 2


def draw(seed=0, *, rows=2, width=6, experts=EXPERTS):
    return jax.random.normal(jax.random.key(seed), (rows, width, experts))


def test_the_likeliest_experts_are_chosen():
    logits = jnp.log(jnp.array([[[0.1, 0.4, 0.2, 0.3]]]))
    choice = moe.route(logits, top=2, normalise=False)
    np.testing.assert_array_equal(choice.expert, [[[1, 3]]])
    np.testing.assert_allclose(choice.gate, [[[0.4, 0.3]]], rtol=1e-6)
    normalised = moe.route(logits, top=2, normalise=True)
    np.testing.assert_allclose(normalised.gate, [[[4 / 7, 3 / 7]]], rtol=1e-6)


def test_all_experts_are_the_softmax():
    logits = draw()
    choice = moe.route(logits.astype(jnp.bfloat16), top=EXPERTS, normalise=True)
    assert choice.gate.dtype == jnp.float32
    np.testing.assert_allclose(choice.gate.sum(-1), 1.0, rtol=1e-6)
    scattered = jnp.einsum("BTk,BTkE->BTE", choice.gate, jax.nn.one_hot(choice.expert, EXPERTS))
    wanted = jax.nn.softmax(logits.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(scattered, wanted, rtol=1e-6)


def loads(logits, segments=None, top=TOP):
    segments = jnp.ones(logits.shape[:2], int) if segments is None else segments
    return moe.load(logits, moe.route(logits, top=top, normalise=True), segments)


def balance(total, tokens):
    return float(moe.balance(total, jnp.int32(tokens)).value())


def test_equal_experts_have_a_balance_of_top_and_one_expert_of_all():
    turns = 9.0 * jax.nn.one_hot(jnp.arange(EXPERTS), EXPERTS)[None]  # each expert once, first
    assert balance(loads(turns, top=1), EXPERTS) == pytest.approx(1.0)
    assert balance(loads(jnp.zeros((1, 5, EXPERTS))), 5) == pytest.approx(TOP)
    one = jnp.zeros((1, 5, EXPERTS)).at[..., 2].set(99.0)
    assert balance(loads(one, top=1), 5) == pytest.approx(EXPERTS)


def test_padding_has_no_load():
    logits, segments = draw(), jnp.array([[1, 1, 2, 2, 2, 0], [1, 0, 0, 0, 0, 0]])
    total, other = loads(logits, segments), loads(logits + 9 * (segments == 0)[..., None], segments)
    jax.tree.map(np.testing.assert_array_equal, total, other)
    assert float(total.seats_E.sum()) == 6 * TOP
    assert balance(loads(logits, segments * 0), 0) == 0  # nothing to count


def test_layers_add_before_the_product():
    first, second = loads(draw(0)), loads(draw(1))
    both = loads(jnp.concatenate([draw(0), draw(1)]))
    added = jax.tree.map(jnp.add, first, second)
    assert balance(added, 24) == pytest.approx(balance(both, 24))


def test_the_balance_pushes_probability_away_from_the_busy_expert():
    logits = draw().at[..., 1].add(3.0)
    gradient = jax.grad(lambda logits: moe.balance(loads(logits), jnp.int32(12)).value())(logits)
    assert (gradient[..., 1] > 0).all()


# -- seats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "factor", "seats"), [(8, 1.0, 4), (8, 1.3, 6), (8, 9.0, 8), (1, 0.1, 1)]
)
def test_seats_of_an_expert(tokens, factor, seats):
    assert moe.capacity(tokens, experts=EXPERTS, top=TOP, factor=factor) == seats


def test_the_first_tokens_of_a_row_are_seated():
    choice = moe.Choice(jnp.full((1, 4, 1), 2), jnp.full((1, 4, 1), 0.5))
    found = moe.seat(choice, jnp.array([[1, 0, 1, 1]]), experts=EXPERTS, seats=1)
    x = jnp.arange(1.0, 5.0)[None, :, None]
    np.testing.assert_array_equal(moe.to_seats(x, found)[:, 0, 0, 0], [0, 0, 1, 0])
    y = moe.from_seats(10 * moe.to_seats(x, found), found)
    np.testing.assert_array_equal(y[0, :, 0], [5, 0, 0, 0])
    assert float(found.dropped) == 2  # padding is not dropped
    total = moe.load(jnp.zeros((1, 4, EXPERTS)), choice, jnp.array([[1, 0, 1, 1]]), dropped=2.0)
    assert float(moe.drop_rate(total).value()) == pytest.approx(2 / 3)


def test_a_later_token_takes_no_earlier_seat():
    logits = draw(rows=1, width=8)
    run = lambda logits: moe.seat(
        moe.route(logits, top=TOP, normalise=True), jnp.ones((1, 8), int), experts=EXPERTS, seats=2
    )
    before, after = run(logits), run(logits.at[:, -1].set(-logits[:, -1]))
    np.testing.assert_array_equal(before.combine[:, :-1], after.combine[:, :-1])
    assert float(before.dropped) > 0


@pytest.mark.parametrize(("kind", "factor"), [("dropout", 1.0), ("capacity", 0.0)])
def test_wrong_dispatch(kind, factor):
    with pytest.raises(ValueError, match=r"model\.\w+: got"):
        moe.dispatch(kind, factor=factor)


def test_sigmoids_choose_with_the_correction_and_weigh_without():
    logits = jnp.array([[[2.0, 1.0, 0.0, -1.0]]])
    correction = jnp.array([0.0, 0.0, 0.0, 5.0])
    choice = moe.route_sigmoid(logits, correction, top=2, normalise=False, scale=2.0)
    np.testing.assert_array_equal(choice.expert, [[[3, 0]]])
    np.testing.assert_allclose(
        choice.gate, 2 * jax.nn.sigmoid(jnp.array([[[-1.0, 2.0]]])), rtol=1e-6
    )
    summed = moe.route_sigmoid(logits, correction, top=2, normalise=True, scale=1.0)
    assert float(summed.gate.sum()) == pytest.approx(1)


def test_tokens_stay_in_their_best_groups():
    logits = jnp.array([[[3.0, -9.0, 1.0, 1.0]]])  # the best expert, in the worse of two groups
    options = dict(top=2, normalise=False, scale=1.0, groups=2, top_groups=1)
    choice = moe.route_sigmoid(logits, jnp.zeros(4), **options)
    assert sorted(np.asarray(choice.expert).ravel()) == [2, 3]
