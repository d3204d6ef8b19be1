"""Edits by hand, and zero strength as the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import dora, fourierft, loha, lokr, lora, oft
from ftjax.adapters.lib import protocol
from ftjax.core import tree
from ftjax.evals.lib import spectrum
from ftjax.models.base import Linear
from ftjax.train import edits

LINEARS = {"head": Linear("BTD,VD->BTV", (7, 4), None), "q": Linear("BTD,DF->BTF", (4, 6), (0, 1))}
KEYS = jax.random.split(jax.random.key(0), 6)


def weights(key):
    shapes = {"head": (7, 4), "q": (2, 4, 6), "norm": (4,)}
    return {
        n: jax.random.normal(jax.random.fold_in(key, i), s)
        for i, (n, s) in enumerate(shapes.items())
    }


BASE, A, B = (weights(key) for key in KEYS[:3])


def same(x, y):
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes() and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    )


def close(x, y, **options):
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 1e-5, "atol": 1e-5} | options))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_interpolation_by_hand_and_at_its_ends(dtype):
    base, tuned = (jax.tree.map(lambda x: x.astype(dtype), each) for each in (BASE, A))
    base["norm"] = -jnp.zeros(4, dtype)  # whose sign a sum would lose
    assert same(edits.interpolate(base, tuned, 0.0), base)
    assert same(edits.interpolate(base, tuned, 1.0), tuned)
    assert same(edits.interpolate(tuned, base, 1.0), base)
    found = edits.interpolate({"w": jnp.full(2, 1, dtype)}, {"w": jnp.full(2, 3, dtype)}, 0.25)
    assert found["w"].dtype == dtype
    np.testing.assert_array_equal(found["w"], [1.5, 1.5])


METHODS = {
    "lora": lora.make(rank=2, alpha=4.0), "pissa": lora.make(rank=2, alpha=2.0, init="pissa"),
    "loha": loha.make(rank=2, alpha=4.0), "lokr": lokr.make(rank=2, alpha=4.0),
    "fourierft": fourierft.make(frequencies=4, scale=3.0), "oft": oft.make(block=2),
}  # fmt: skip


def adapted(method):
    """Make adapters, as noise upon the start of the method has them; the scales stay."""
    found = protocol.init(METHODS[method], KEYS[3], LINEARS, BASE, where=["q", "head"])
    frozen = protocol.frozen_paths(found, prefix="x")
    noise = lambda path, x: (
        x if f"x/{path}" in frozen else x + 0.3 * jax.random.normal(KEYS[4], x.shape)
    )
    return tree.map_with_paths(noise, found)


def merged(adapters):
    return protocol.merge(BASE, adapters, LINEARS)


@pytest.mark.parametrize("method", METHODS)
def test_the_dial_goes_from_the_base_to_the_adapter(method):
    adapters = adapted(method)
    assert same(edits.dial(adapters, 1.0), adapters)
    close(merged(edits.dial(adapters, 0.0)), BASE)
    half, whole = merged(edits.dial(adapters, 0.5)), merged(adapters)
    assert np.abs(whole["q"] - BASE["q"]).max() > 1e-3
    line = edits.interpolate(BASE, whole, 0.5)
    if method == "oft":
        lengths = lambda w: jnp.linalg.norm(w["q"], axis=1)
        close(lengths(half), lengths(BASE))  # a rotation, which the line between is not
        assert np.abs(lengths(line) - lengths(BASE)).max() > 1e-3
    else:
        close(half, line)


def test_an_oft_turns_less():
    # A block of 2 with generator q turns by 2 atan(q): its dial is the generator's.
    adapter = oft.OFT(jnp.asarray([[1.0]]), 0)
    half = edits.dial({"w": adapter}, 0.5)["w"]
    turned = half.merge("BTD,DF->BTF", jnp.eye(2))
    angle = 2 * np.arctan(0.5)
    np.testing.assert_allclose(np.abs(turned[0, 0]), np.cos(angle), rtol=1e-5)
    np.testing.assert_allclose(np.abs(turned[0, 1]), np.sin(angle), rtol=1e-5)


def test_a_lora_without_strength_is_the_base_bit_for_bit():
    assert same(merged(edits.dial(adapted("lora"), 0.0)), BASE)


def test_an_adapter_without_a_dial_is_named():
    found = protocol.init(dora.make(rank=2, alpha=4.0), KEYS[3], LINEARS, BASE, where=["q"])
    with pytest.raises(ValueError, match="adapters/q: got a DoRA; expected one of LoRA, "):
        edits.dial(found, 0.5)


def test_every_dial_is_tried_here():
    tried = {
        type(adapter) for name in METHODS for adapter in protocol.sites(adapted(name)).values()
    }
    assert tried == set(edits.DIALS)


def test_soup():
    assert same(edits.soup([A]), A)
    close(edits.soup([A, B, B]), jax.tree.map(lambda a, b: (a + 2 * b) / 3, A, B))
    close(edits.soup([A, B], [0.25, 0.75]), edits.interpolate(A, B, 0.75))
    with pytest.raises(ValueError, match="expected one each, with the sum 1"):
        edits.soup([A, B], [1, 1])
    with pytest.raises(ValueError, match="got no model"):
        edits.soup([])


def test_ties_by_hand():
    base = {"w": jnp.asarray([1.0, 1.0, 1.0, 1.0])}
    one = {"w": base["w"] + jnp.asarray([4.0, 0.1, -2.0, 0.0])}
    two = {"w": base["w"] + jnp.asarray([2.0, 0.1, 3.0, 0.0])}
    # Half of the entries are kept; the third has two signs, of which the sum elects plus.
    close(edits.ties(base, [one, two], density=0.5), {"w": jnp.asarray([4.0, 1, 4, 1])})
    half = edits.ties(base, [one, two], density=0.5, strength=0.5)
    close(half, {"w": jnp.asarray([2.5, 1, 2.5, 1])})
    assert same(edits.ties(base, [one, two], strength=0.0), base)


def test_dare_drops_and_rescales():
    base = {"w": jnp.zeros(10_000)}
    tuned = [{"w": jnp.ones(10_000)}]
    found = np.asarray(edits.dare(base, tuned, key=KEYS[5], drop=0.75)["w"])
    np.testing.assert_allclose(np.unique(found), [0, 4])
    assert found.mean() == pytest.approx(1, abs=0.1)
    assert same(edits.dare(base, tuned, key=KEYS[5], strength=0.0), base)
    close(edits.dare(BASE, [A, B], key=KEYS[5], drop=0.0), edits.soup([A, B]))


def test_intruders_are_reduced_where_they_are():
    linears = {
        "q": Linear("BTD,DNH->BTNH", (32, 8, 8), (0, 1)),
        "o": Linear("BTD,VD->BTV", (64, 32), None),
    }
    plain = np.eye(32, 64) * np.linspace(2, 1, 32)[:, None]
    odd = plain.copy()
    odd[5, 40] = 30.0
    stack = lambda *found: jnp.asarray(np.stack(found).reshape(2, 32, 8, 8), jnp.float32)
    base = {"q": stack(plain, plain), "o": jnp.asarray(plain.T, jnp.float32), "norm": jnp.ones(3)}
    tuned = base | {"q": stack(plain, odd), "norm": 2 * jnp.ones(3)}
    options = dict(top=10, threshold=0.7)
    found = edits.reduce_intruders(base, tuned, linears, strength=0.5, **options)
    half = odd.copy()
    half[5] /= 2
    close(found["q"], stack(plain, half))
    assert same([found["o"], found["norm"]], [tuned["o"], tuned["norm"]])
    assert same(edits.reduce_intruders(base, tuned, linears, strength=1.0), tuned)
    layers = list(spectrum.layers(base, tuned, linears))
    assert [spectrum.intruders(*each[2:], **options).ranks for each in layers] == [[], [0], []]


def test_what_is_refused():
    with pytest.raises(ValueError, match="differ in norm"):
        edits.interpolate(BASE, {k: v for k, v in A.items() if k != "norm"}, 0.5)
    with pytest.raises(ValueError, match="differ in q"):
        edits.soup([A, A | {"q": jnp.ones(3)}])
    with pytest.raises(ValueError, match="amount: got nan"):
        edits.interpolate(BASE, A, float("nan"))
