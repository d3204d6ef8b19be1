"""Recurrences in chunks against token by token; documents, padding, caches and starts apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.ops import recurrence

B, T, Y, G, P, Q, W = 2, 11, 2, 3, 4, 5, 4
SEGMENTS = np.array([[1] * 4 + [2] * 3 + [3] * 4, [1] * 6 + [0] * 5], np.int32)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(recurrence, "CHUNK", 4)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs(seed=0):
    q, k, v = draw(B, T, Y, G, seed=1), draw(B, T, Y, G, seed=2), draw(B, T, Y, P, seed=3)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    return q, k, v, -np.abs(draw(B, T, Y, seed=4)), 1 / (1 + np.exp(-draw(B, T, Y, seed=5)))


def one_by_one(q, k, v, g, beta, segments, state, start):
    """Follow the definition."""
    out = np.zeros((B, T, Y, P), np.float32)
    state, last = np.array(state), np.zeros(B, int)
    for b in range(B):
        last[b] = segments[b, 0] if start is None else 0
        for t in range(T):
            if segments[b, t] == 0:
                continue
            if segments[b, t] != last[b]:
                state[b], last[b] = 0 if start is None else start[0], segments[b, t]
            for y in range(Y):
                decayed = np.exp(g[b, t, y]) * state[b, y]
                value = v[b, t, y]
                if beta is not None:
                    value = beta[b, t, y] * (value - decayed.T @ k[b, t, y])
                state[b, y] = decayed + np.outer(k[b, t, y], value)
                out[b, t, y] = state[b, y].T @ q[b, t, y]
    return out, state


@pytest.mark.parametrize("corrects", [True, False])
@pytest.mark.parametrize("begins", ["cache", "prompt"])
def test_chunks_are_the_recurrence(corrects, begins):
    q, k, v, g, beta = inputs()
    beta = beta if corrects else None
    state = draw(B, Y, G, P, seed=6) if begins == "cache" else np.zeros((B, Y, G, P), np.float32)
    start = draw(1, Y, G, P, seed=7) if begins == "prompt" else None
    flow = recurrence.flow(SEGMENTS, continues=begins == "cache")
    run = jax.jit(
        lambda *args: recurrence.scan(
            *args, flow, beta_BTY=beta, state_BYGP=state, start_BYGP=start
        )
    )
    out, last = run(q, k, v, g)
    wanted, wanted_last = one_by_one(q, k, v, g, beta, SEGMENTS, state, start)
    real = SEGMENTS > 0
    np.testing.assert_allclose(out[real], wanted[real], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last, wanted_last, rtol=1e-4, atol=1e-5)


def test_a_row_in_parts_is_the_row():
    q, k, v, g, beta = inputs()
    ones = np.ones((B, T), np.int32)

    @jax.jit
    def scan(segments, q, k, v, g, beta, state=None):
        flow = recurrence.flow(segments, continues=state is not None)
        return recurrence.scan(q, k, v, g, flow, beta_BTY=beta, state_BYGP=state)

    whole, wanted = scan(ones, q, k, v, g, beta)
    state, found = None, []
    for part in (slice(0, 6), slice(6, 7), slice(7, T)):
        out, state = scan(*(x[:, part] for x in (ones, q, k, v, g, beta)), state)
        found.append(out)
    np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, wanted, rtol=1e-4, atol=1e-5)


def test_strong_decays_have_finite_gradients():
    q, k, v, g, beta = inputs()
    flow = recurrence.flow(SEGMENTS, continues=False)
    loss = lambda g: jnp.square(recurrence.scan(q, k, v, g, flow, beta_BTY=beta)[0]).sum()
    gradient = jax.jit(jax.grad(loss))
    for scale in (1.0, 1000.0):
        assert np.isfinite(gradient(scale * g)).all()


def test_a_convolution_stays_in_its_document_and_goes_on_from_a_cache():
    x, w = draw(B, T, Q) * (SEGMENTS > 0)[..., None], draw(Q, W, seed=1)

    @functools.partial(jax.jit, static_argnames="continues")
    def convolve(x, segments, *kept, continues=False):
        return recurrence.convolve(x, w, recurrence.flow(segments, continues=continues), *kept)

    got = np.asarray(convolve(x, SEGMENTS)[0])
    for b in range(B):
        for t in np.flatnonzero(SEGMENTS[b]):
            back = [i for i in range(W) if t >= i and SEGMENTS[b, t - i] == SEGMENTS[b, t]]
            wanted = sum(x[b, t - i] * w[:, W - 1 - i] for i in back)
            np.testing.assert_allclose(got[b, t], wanted, rtol=1e-4, atol=1e-5)
    ones = np.ones((B, T), np.int32)
    whole, last = convolve(x, ones)
    first, kept = convolve(x[:, :2], ones[:, :2])
    rest, again = convolve(x[:, 2:], ones[:, 2:], kept, continues=True)
    np.testing.assert_allclose(np.concatenate([first, rest], 1), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(last, x[:, 1 - W :])
    np.testing.assert_array_equal(again, last)


def test_padding_leaves_states_as_they_are():
    q, k, v, g, beta = inputs()
    state, kept = draw(B, Y, G, P, seed=6), draw(B, W - 1, Q, seed=7)
    flow = recurrence.flow(np.zeros((B, T), np.int32), continues=True)
    _, after = recurrence.scan(q, k, v, g, flow, beta_BTY=beta, state_BYGP=state)
    np.testing.assert_allclose(after, state, rtol=1e-6)
    _, inputs_after = recurrence.convolve(np.zeros((B, T, Q), np.float32), draw(Q, W), flow, kept)
    np.testing.assert_array_equal(inputs_after, kept)
