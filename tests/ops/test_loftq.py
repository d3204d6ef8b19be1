"""LoftQ: what a low-rank correction of a quantised weight gains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import tree
from ftjax.ops import loftq, lowrank, quantize

EQUATION, SHAPE = "BTD,DNH->BTNH", (48, 4, 16)
W = jax.random.normal(jax.random.key(0), SHAPE) * 0.1
each = pytest.mark.parametrize("name", quantize.FORMATS)


def correct(name, *, rank, iterations=1, w=W):
    def quantizer(w):
        return quantize.make(name=name)(EQUATION, w)

    run = loftq.over(quantizer, EQUATION, rank=rank, iterations=iterations)
    return quantizer(w), jax.jit(run)(w)


def error(found, w=W):
    return float(jnp.linalg.norm((w - found.dequantize(jnp.float32)).ravel()))


@each
def test_one_turn_is_the_quantised_weight_and_the_best_correction_of_it(name):
    plain, found = correct(name, rank=4)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found.weight, plain)
    rest = np.asarray(W - plain.dequantize(jnp.float32)).reshape(48, 64)
    values = np.linalg.svd(rest, compute_uv=False)
    assert error(found) == pytest.approx(np.sqrt(np.square(values[4:]).sum()), rel=1e-3)
    np.testing.assert_allclose(
        found.a.T @ found.a, jnp.einsum("RNH,QNH->RQ", found.b, found.b), atol=1e-4
    )


@each
def test_the_error_falls_with_turns_and_with_the_rank(name):
    plain, _ = correct(name, rank=1)
    of_turns = [error(correct(name, rank=8, iterations=n)[1]) for n in (1, 2, 5)]
    assert of_turns == sorted(of_turns, reverse=True)
    assert of_turns[-1] < of_turns[0]
    for turns in (1, 3):
        of_ranks = [error(correct(name, rank=r, iterations=turns)[1]) for r in (1, 4, 16, 48)]
        assert error(plain) > of_ranks[0]
        assert of_ranks == sorted(of_ranks, reverse=True)
    assert of_ranks[-1] < 1e-3 * error(plain)


def test_stacked_weights_and_their_parts():
    stack = jnp.stack([W, 2 * W])

    def quantizer(w):
        return quantize.nf4(EQUATION, w)

    found = jax.vmap(loftq.over(quantizer, EQUATION, rank=2, iterations=1))(stack)
    one = correct("nf4", rank=2)[1]
    np.testing.assert_allclose(
        found.dequantize(jnp.float32)[0], one.dequantize(jnp.float32), atol=1e-5
    )
    letters = tree.paths(found.axes("LDNH"))
    for path, leaf in tree.paths(found).items():
        assert len(letters[path]) == leaf.ndim, path
    bare, factors = loftq.part({"q": found, "norm": jnp.ones(3)})
    assert set(factors) == {"q"}
    assert quantize.sites(bare) == ["q"]
    assert isinstance(bare["q"], quantize.NF4)
    np.testing.assert_array_equal(factors["q"][0], found.a)


def test_factors_have_the_letters_of_the_equation():
    w = jax.random.normal(jax.random.key(1), (3, 6, 10))
    m = lowrank.matrix("EBD,EDF->EBF", w)
    a, b = lowrank.factors("EBD,EDF->EBF", w.shape, *lowrank.triplets(m, slice(None, 6)))
    assert (a.shape, b.shape) == ((3, 6, 6), (6, 3, 10))
    np.testing.assert_allclose(jnp.einsum("EDR,REF->EDF", a, b), w, atol=1e-5)
