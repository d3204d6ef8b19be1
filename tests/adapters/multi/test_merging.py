"""Combinations without reference material: whole models, DARE, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.adapters.multi import merging
from ftjax.models.base import Linear

LINEARS = {"head": Linear("BTD,VD->BTV", (7, 5), None), "q": Linear("BTD,DF->BTF", (5, 6), (0, 1))}
KEY = jax.random.key(0)


def adapter(path, seed):
    draw = lambda i, *shape: jax.random.normal(jax.random.key(10 * seed + i), shape)
    lead = () if LINEARS[path].stack is None else (2,)
    kept = 7 if path == "head" else 6
    return lora.LoRA(draw(0, *lead, 5, 3), draw(1, *lead, 3, kept), jnp.full(lead, 0.5 * seed))


A = {"head": adapter("head", 1), "q": adapter("q", 2)}
B = {"q": adapter("q", 3)}
WEIGHTS = {"head": jnp.zeros((7, 5)), "q": jnp.zeros((2, 5, 6))}


def combined(kind, **options):
    return merging.adapters([A, B], [0.7, -0.4], kind=kind, linears=LINEARS, **options)


def merged(adapters):
    return protocol.merge(WEIGHTS, adapters, LINEARS)


@pytest.mark.parametrize("kind", ["cat", "svd"])
def test_exact_kinds_are_the_weighted_sum(kind):
    got = merged(combined(kind, rank=6))
    a, b = merged(A), merged(B)
    np.testing.assert_allclose(got["q"], 0.7 * a["q"] - 0.4 * b["q"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got["head"], 0.7 * a["head"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in merging.KINDS if kind.startswith("dare")])
def test_dare_of_everything_is_the_method_without_it(kind):
    other = {"dare_linear_svd": "svd"}.get(kind, kind.removeprefix("dare_"))
    same = combined(other, rank=3, density=1.0)
    got = combined(kind, rank=3, density=1.0, key=KEY)
    for x, y in zip(jax.tree.leaves(merged(got)), jax.tree.leaves(merged(same)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_dare_drops_and_rescales():
    x = jnp.ones(10000)
    got = merging.mix([x], jnp.ones(1), kind="dare_linear", density=0.25, key=KEY)
    assert set(np.unique(got)) == {0.0, 4.0}
    assert float(got.mean()) == pytest.approx(1, abs=0.05)


def test_task_arithmetic_of_models():
    start = {"w": jnp.array([1.0, 2.0, 3.0, 4.0], jnp.bfloat16)}
    tuned = [{"w": start["w"] + jnp.array(d, jnp.bfloat16)} for d in ([4, 1, 0, -8], [2, -3, 1, 8])]
    add = lambda kind, **more: merging.models(start, tuned, [0.5, 1.0], kind=kind, **more)["w"]
    assert add("linear").dtype == jnp.bfloat16
    assert add("linear").tolist() == [5.0, -0.5, 4.0, 8.0]
    assert add("magnitude_prune", density=0.5).tolist() == [3.0, -1.0, 3.0, 8.0]
    assert add("ties", density=1.0).tolist() == [3.0, -1.0, 4.0, 12.0]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("tie", {}, "kind: got 'tie'; did you mean 'ties'"),
        ("ties", {}, "density: got None"),
        ("ties", dict(density=1.5), "density: got 1.5"),
        ("svd", {}, "rank: got None"),
        ("dare_ties", dict(density=0.5), "key: got none"),
        ("ties", dict(density=0.5, sign="most"), "sign: got 'most'"),
    ],
)
def test_what_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        combined(kind, **options)


def test_weights_and_methods_must_fit():
    with pytest.raises(ValueError, match="weights: got 1 for 2"):
        merging.adapters([A, B], [1.0], kind="cat", linears=LINEARS)
    with pytest.raises(ValueError, match="got a Adapter; expected a LoRA"):
        merging.adapters([{"q": protocol.Adapter()}], [1.0], kind="cat", linears=LINEARS)
    with pytest.raises(ValueError, match="kind: got 'cat'"):
        merging.models(WEIGHTS, [WEIGHTS], [1.0], kind="cat")
