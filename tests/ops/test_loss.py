"""Chunked log-probabilities against log_softmax of the whole logits."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.ops import divergence, loss, softcap
from ftjax.run import hlo

B, T, D, V = 2, 7, 5, 11


@pytest.fixture(scope="module")
def inputs():
    draw = np.random.default_rng(0)
    x, w = draw.normal(size=(B, T, D)), 2 * draw.normal(size=(V, D))
    targets = draw.integers(V, size=(B, T))
    weights = [jnp.asarray(draw.normal(size=(B, T)), jnp.float32) for _ in range(2)]
    return jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32), jnp.asarray(targets), weights


def plain(x, w, targets, cap=None):
    logits = x @ w.T
    logits = logits if cap is None else cap * jnp.tanh(logits / cap)
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    return logp, jax.nn.logsumexp(logits, -1)


@pytest.mark.parametrize(("chunk", "cap"), [(1, None), (2, 3.0), (3, None), (7, 2.0), (100, None)])
def test_values_and_gradients(inputs, chunk, cap):
    x, w, targets, (of_logp, of_logz) = inputs
    chunked = lambda x, w: loss.logps(x, w, targets, chunk=chunk, cap=cap)
    zero = jnp.zeros_like(of_logp)
    cotangents = (of_logp, zero), (zero, of_logz), (of_logp, of_logz)

    def pulled(function):
        found, pull = jax.vjp(function, x, w)
        return found, [pull(each) for each in cotangents]

    got, pulls = jax.jit(lambda: pulled(chunked))()
    wanted, pulls_wanted = jax.jit(lambda: pulled(lambda x, w: plain(x, w, targets, cap)))()
    for ours, theirs in zip(got, wanted, strict=True):
        assert (ours.shape, ours.dtype) == ((B, T), jnp.float32)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (pulls, pulls_wanted)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_means_of_logits(inputs, cap):
    x, w, _, _ = inputs
    mean = lambda x: loss.mean_logits(x, w, chunk=3, cap=cap)
    expected = lambda x: softcap.apply(x @ w.T, cap).mean(-1)
    np.testing.assert_allclose(mean(x), expected(x), atol=1e-5)
    got, wanted = (jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (mean, expected))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_squares_of_probabilities(inputs, cap):
    x, w, _, _ = inputs
    p = jax.nn.softmax(softcap.apply(x @ w.T, cap))
    found = loss.log_squares(x, w, chunk=3, cap=cap)
    np.testing.assert_allclose(found, jnp.log((p**2).sum(-1)), rtol=1e-4, atol=1e-5)


def test_bfloat16_states_reduce_in_float32(inputs):
    x, w, targets, _ = inputs
    got = loss.logps(x.astype(jnp.bfloat16), w, targets, chunk=3)
    for ours, theirs in zip(got, plain(x, w, targets), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=0.1)


def test_no_array_of_all_logits_is_kept():
    """Residuals of the backward pass are as large as x and w, however large V is."""
    x, w = jnp.zeros((1, 64, 4)), jnp.zeros((1000, 4))
    targets = jnp.zeros((1, 64), jnp.int32)
    _, pull = jax.vjp(lambda x: loss.logps(x, w, targets, chunk=8)[0].sum(), x)
    assert max(leaf.size for leaf in jax.tree.leaves(pull)) < 64 * 1000


def test_entropies_and_their_gradient_are_those_of_the_softmax():
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
    x, w = draw(0, 2, 7, 5), draw(1, 9, 5)

    def plain(x, w):
        logps = jax.nn.log_softmax(x @ w.T)
        return -(jnp.exp(logps) * logps).sum(-1)

    chunked = lambda x, w: loss.along(divergence.entropy, (x, w, None), chunk=3)
    np.testing.assert_allclose(chunked(x, w), plain(x, w), rtol=1e-5)
    square = lambda f: jax.grad(lambda *args: (f(*args) ** 2).sum(), argnums=(0, 1))
    for found, wanted in zip(square(chunked)(x, w), square(plain)(x, w), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("length", "chunk", "sizes"), [(80, 64, {40}), (128, 64, {64}), (130, 64, {44}), (5, 64, {5})]
)
def test_chunks_are_even(length, chunk, sizes):
    """Positions that only fill the last chunk cost as much as others: there are few of them."""
    seen = set()

    def of(logits):
        seen.add(logits.shape[1])
        return logits.sum(-1)

    x, w = jnp.ones((2, length, 3)), jnp.ones((7, 3))
    assert loss.along(of, (x, w, None), chunk=chunk).shape == (2, length)
    assert seen == sizes


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("chunk", [3, 7])
def test_a_total_is_that_of_log_probabilities(inputs, chunk, cap):
    x, w, targets, (weights, _) = inputs
    token_loss = lambda logp, logz, mean: -logp + 0.1 * (logp + logz - mean) + 0.01 * logz**2

    def apart(x, w):
        logp, logz = loss.logps(x, w, targets, chunk=chunk, cap=cap)
        mean = loss.mean_logits(x, w, chunk=chunk, cap=cap)
        return 3 * (weights * token_loss(logp, logz, mean)).sum()

    def at_once(x, w):
        value, logp = loss.total(token_loss, x, w, targets, weights, chunk=chunk, cap=cap)
        return 3 * value, logp

    wanted = jax.jit(jax.value_and_grad(apart, argnums=(0, 1)))(x, w)
    found = jax.jit(jax.value_and_grad(at_once, argnums=(0, 1), has_aux=True))(x, w)
    (value, logp), gradients = found
    for ours, theirs in zip(
        jax.tree.leaves((value, gradients)), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(logp, loss.logps(x, w, targets, chunk=chunk, cap=cap)[0], rtol=1e-5)
    np.testing.assert_allclose(at_once(x, w)[0], value, rtol=1e-6)  # without a gradient


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(512, dict(fsdp=4, tensor=2)), (509, dict(fsdp=4, tensor=2)),
     (512, dict(fsdp=2, sequence=2, tensor=2))],
)  # fmt: skip
def test_over_sharded_weights_it_is_the_same_and_the_head_moves_once(size, sizes):
    """What devices send does not grow with the number of chunks; 509 divides over no devices."""
    mesh = meshes.make(data=1, **sizes)
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
    x, w, weights = draw(0, 8, 16, 32), draw(1, size, 32), draw(2, 8, 16)
    targets = jax.random.randint(jax.random.key(3), (8, 16), 0, size)
    arrays = dict(x=(x, "BTD"), w=(w, "VD"), targets=(targets, "BT"), weights=(weights, "BT"))
    places = {n: meshes.shardings(letters, a, mesh) for n, (a, letters) in arrays.items()}
    of_token = lambda logp, logz, mean: -logp

    def both(x, w, targets, weights, chunk):
        value = loss.total(of_token, x, w, targets, weights, chunk=chunk)[0]
        logp, logz = loss.logps(x, w, targets, chunk=chunk)
        entropy = loss.along(divergence.entropy, (x, w, None), chunk=chunk)
        return value + (weights * (logp + logz + entropy)).sum()

    def compiled(chunk):
        gradient = jax.jit(
            jax.value_and_grad(functools.partial(both, chunk=chunk), (0, 1)),
            out_shardings=(None, (places["x"], places["w"])),
        )
        given = jax.device_put([a for a, _ in arrays.values()], [*places.values()])
        with jax.set_mesh(mesh):
            return gradient.lower(*given).compile(), given

    (often, given), (once, _) = compiled(2), compiled(16)
    wanted = jax.value_and_grad(functools.partial(both, chunk=16), (0, 1))(x, w, targets, weights)
    for ours, theirs in zip(*map(jax.tree.leaves, (often(*given), wanted)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    sent = lambda program: sum(
        each.bytes for each in hlo.collectives(hlo.parse(program.as_text()), slices=(0,) * 8)
    )
    assert size == 509 or sent(often) < 1.3 * sent(once)


def test_no_device_has_the_whole_head_where_rows_are_in_parts():
    """Nor the hidden states of whole rows: each has an eighth of the vocabulary, and a chunk."""
    mesh = meshes.make(data=1, fsdp=2, sequence=4)
    shape = lambda sizes, letters, dtype=jnp.float32: jax.ShapeDtypeStruct(
        sizes, dtype, sharding=meshes.shardings(letters, jax.ShapeDtypeStruct(sizes, dtype), mesh)
    )
    x, w = shape((2, 96, 64), "BTD"), shape((1000, 64), "VD")
    targets, weights = shape((2, 96), "BT", jnp.int32), shape((2, 96), "BT")
    of_token = lambda logp, logz, mean: -logp
    value = lambda x, w, *rest: loss.total(of_token, x, w, *rest, chunk=16)[0]
    with jax.set_mesh(mesh):
        program = jax.jit(jax.grad(value, (0, 1))).lower(x, w, targets, weights).compile()
    made = re.findall(r"\[([\d,]+)\]", program.as_text())
    most = max(math.prod(map(int, each.split(","))) for each in made)
    assert most == 125 * 64 < 2 * 96 * 64
