"""L2-SP against its definition: of the weights, whatever makes them change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import lora, prompt
from ftjax.models.base import Linear
from ftjax.penalties import l2sp

LINEARS = {
    "q": Linear("BTD,DF->BTF", (5, 7), (0, 1, 2)), "head": Linear("BTD,VD->BTV", (9, 5), None),
}  # fmt: skip


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


W = {"q": draw(0, 3, 5, 7), "head": draw(1, 9, 5), "norm": draw(2, 5)}


def factors(b):
    return {"q": lora.LoRA(draw(3, 3, 5, 2), b, jnp.full(3, 0.5))}


def value(params, origin, *, trains, weight=0.2):
    penalty = l2sp.make(weight=weight, linears=LINEARS, trains=trains)
    return penalty.value(params, penalty.prepare(origin, None, None, None))


def test_of_lora_it_is_the_squared_norm_of_the_merged_change():
    b = draw(4, 3, 2, 7)
    wanted = sum(np.square(0.5 * x @ y).sum() for x, y in zip(draw(3, 3, 5, 2), b, strict=True))
    params, origin = ({"model": W, "adapters": factors(each)} for each in (b, 0 * b))
    got = value(params, origin, trains={"adapters/q/a", "adapters/q/b"})
    np.testing.assert_allclose(got, 0.1 * wanted, rtol=1e-5)
    assert value(origin, origin, trains={"adapters/q/a", "adapters/q/b"}) == 0


def test_of_trained_weights_it_is_the_squared_distance_of_those_alone():
    moved = jax.tree.map(lambda w: w + 0.25, W)
    got = value(
        {"model": moved, "adapters": None}, {"model": W, "adapters": None},
        trains={"model/q", "model/norm"},
    )  # fmt: skip
    np.testing.assert_allclose(got, 0.1 * 0.0625 * (105 + 5), rtol=1e-5)


def test_the_start_is_a_copy_of_what_moves_and_of_nothing_else():
    penalty = l2sp.make(weight=1.0, linears=LINEARS, trains={"model/norm", "head/reward"})
    params = {"model": W, "adapters": factors(draw(4, 3, 2, 7)), "head": {"reward": jnp.ones(5)}}
    kept = jax.jit(lambda params: penalty.prepare(params, None, None, None))(params)
    assert kept["model"]["q"] is None
    pointer = lambda x: x.unsafe_buffer_pointer()
    assert pointer(kept["model"]["norm"]) != pointer(W["norm"])
    assert pointer(kept["adapters"]["q"].a) != pointer(params["adapters"]["q"].a)


def test_what_changes_no_weight_is_refused():
    params = {"model": W, "adapters": {"prompt": prompt.Prompt(jnp.ones((2, 5)))}}
    with pytest.raises(ValueError, match=r"got l2sp and nothing that changes a weight"):
        value(params, params, trains={"adapters/prompt/embeddings"})
