"""Slots that are refilled from a queue: the same text whatever the order, slots and devices."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.core import shapes
from ftjax.sampling import generation
from ftjax.train.policy import Policy

NEW, SAMPLES, STOPS = 10, 2, tuple(range(20, 30))
PROMPTS = [[5, 11, 7], [9], [4, 4, 30, 31, 8, 40, 2, 17, 22], [20], [6, 6, 6], [33, 1]]
LENGTHS = np.int32([len(p) for p in PROMPTS])
QUEUE = shapes.pad_rows(PROMPTS, 16, fill=0)
KEY = jax.random.key(3)
KEYS = jnp.stack([jax.random.fold_in(KEY, i) for i in range(len(PROMPTS))])


@functools.cache
def maker(model, **options):
    plain = dict(max_new_tokens=NEW, temperature=1.0, stop_ids=STOPS, samples=SAMPLES)
    return generation.make(model, **plain | options)


@pytest.fixture(scope="module")
def adapted(adapted):
    """Weights that give logits of usual sizes, where rounding is what it is in use."""
    return jax.tree.map(lambda leaf: leaf / 2, adapted)


@pytest.fixture(scope="module")
def wanted(model, adapted):
    """All rows at once: nothing is refilled."""
    return maker(model)(adapted, QUEUE, LENGTHS, KEY)


def same(found, wanted):
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_array_equal(found.lengths, wanted.lengths)
    np.testing.assert_allclose(found.logps, wanted.logps, atol=1e-4)


def test_rows_end_at_different_times(wanted):
    assert len(set(wanted.lengths.tolist())) > 3


@pytest.mark.parametrize("slots", [1, 3, 5])
def test_refilled_slots_write_the_same(slots, model, adapted, wanted):
    same(maker(model, slots=slots)(adapted, QUEUE, LENGTHS, KEY), wanted)


def test_the_order_of_the_queue_changes_no_row(model, adapted, wanted):
    order = np.array([3, 0, 5, 1, 4, 2])
    found = maker(model, slots=3)(adapted, QUEUE[order], LENGTHS[order], KEYS[order])
    grouped = lambda x: x.reshape(len(PROMPTS), SAMPLES, *x.shape[1:])[order]
    same(found, jax.tree.map(lambda x: grouped(x).reshape(x.shape), wanted))


def test_samples_of_a_prompt_differ_and_a_single_one_is_its_own(model, adapted, wanted):
    rows = np.asarray(wanted.tokens).reshape(len(PROMPTS), SAMPLES, NEW)
    assert (rows[:, 0] != rows[:, 1]).any(-1).sum() > 3
    keys = jax.vmap(jax.random.fold_in, (0, None))(KEYS, 1)
    alone = maker(model, samples=1)(adapted, QUEUE, LENGTHS, keys)
    np.testing.assert_array_equal(alone.tokens, rows[:, 1])


def test_dummies_write_nothing(model, adapted, wanted):
    lengths = LENGTHS * (np.arange(len(PROMPTS)) != 2)
    found = maker(model, slots=3)(adapted, QUEUE, lengths, KEY)
    rows = np.arange(len(PROMPTS)).repeat(SAMPLES)
    assert (np.asarray(found.lengths)[rows == 2] == 0).all()
    np.testing.assert_array_equal(found.tokens[rows != 2], wanted.tokens[rows != 2])


def test_over_a_mesh(model, adapted, wanted):
    mesh = meshes.make(data=4, tensor=2)
    pad = ((0, 2), (0, 0))
    inputs = (np.pad(QUEUE, pad), np.pad(LENGTHS, pad[0]))
    spread = maker(model, slots=8, out_shardings=meshes.replicated(mesh))
    with jax.set_mesh(mesh):
        placed = jax.device_put(inputs, meshes.batch_shardings(inputs, mesh))
        found = spread(jax.device_put(adapted, meshes.replicated(mesh)), *placed, KEY)
    rows = len(PROMPTS) * SAMPLES
    same(jax.tree.map(lambda x: x[:rows], found), wanted)


def test_the_ratio_of_the_first_step_is_one(model, adapted, wanted):
    """Log-probabilities of the sampler, with a cache, are those that training computes."""
    prompts, lengths = QUEUE.repeat(SAMPLES, 0), LENGTHS.repeat(SAMPLES)
    tokens, total = generation.join(prompts, lengths, wanted)
    places = np.arange(tokens.shape[1])[None]
    batch = {
        "tokens": tokens, "positions": np.broadcast_to(places, tokens.shape),
        "segments": (places < np.asarray(total)[:, None]).astype(np.int32),
    }  # fmt: skip
    logps = jax.jit(lambda params: Policy(model, params, 8).logps(batch))(adapted)
    at = lengths[:, None] - 1 + np.arange(NEW)
    trained = np.take_along_axis(np.asarray(logps), at, 1)
    is_new = np.arange(NEW) < np.asarray(wanted.lengths)[:, None]
    np.testing.assert_allclose(np.exp(trained - wanted.logps)[is_new], 1, atol=1e-5)


def test_frequencies_are_those_of_the_softmax(model, params):
    """Pearson's chi-square over the tokens that are expected often enough, fixed seed."""
    draws = 2000
    once = maker(model, max_new_tokens=1, stop_ids=(), samples=draws)
    prompts, lengths = QUEUE[:1], LENGTHS[:1]
    found = np.asarray(once(params, prompts, lengths, jax.random.key(5)).tokens)[:, 0]
    logits, _ = generation.prefill(model, params, prompts, lengths, length=16)
    expected = draws * np.asarray(jax.nn.softmax(logits[0]))
    counts = np.bincount(found, minlength=len(expected))
    often = expected >= 5
    statistic = ((counts - expected)[often] ** 2 / expected[often]).sum()
    freedom = often.sum()
    assert freedom > 5
    # The statistic has mean = freedom and variance = 2 freedom: three deviations.
    assert abs(statistic - freedom) < 3 * (2 * freedom) ** 0.5


def test_lengths_of_one_bucket_share_a_program(model, params):
    traces, counts = [], []
    counted = types.SimpleNamespace(
        config=model.config, init_cache=model.init_cache, logits=model.logits, cast=model.cast,
        max_length=model.max_length,
        hidden=lambda *args, **options: traces.append(1) or model.hidden(*args, **options),
    )  # fmt: skip
    generate = generation.make(counted, max_new_tokens=4, slots=2)
    for width in (3, 9, 12, 16):
        generate(params, *(QUEUE[:3, :width], np.minimum(LENGTHS[:3], width)), KEY)
        counts.append(len(traces))
    assert len(set(counts)) == 1


def test_a_cache_of_bytes_is_near(model, adapted):
    """The last token of a prompt reads those before it from the cache."""
    prompts, before = QUEUE[2:3], LENGTHS[2:3] - 1
    wanted, _ = generation.prefill(model, adapted, prompts, before + 1, length=16)
    cache = model.init_cache(batch=1, length=16, dtype="int8")
    assert cache["blocks"]["k"].dtype == jnp.int8
    places = np.arange(16)[None]

    @jax.jit
    def logits(params, cache):
        _, cache = model.hidden(
            params["model"], prompts, positions_BT=places, cache=cache,
            segments_BT=np.int32(places < before), adapters=params["adapters"],
        )  # fmt: skip
        last = prompts[0, before]
        return generation.decode(model, params, last, before, np.array([True]), cache)

    found, cache = logits(adapted, cache)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 0 < error < 0.02
    assert cache["blocks"]["k"].dtype == jnp.int8
