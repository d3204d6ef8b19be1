import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.sampling import sampler

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], np.float32)


def softmax(logits):
    p = np.exp(logits - np.max(logits))
    return p / p.sum()


def softmax_rows(logits):
    p = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def counts(draws=4000, **options):
    """How often each token comes; also that log-probabilities are the model's own."""
    pick = sampler.make(**options)
    keys = jax.random.split(jax.random.key(5), draws)
    tokens, logps = pick(jnp.tile(LOGITS, (draws, 1)), keys)
    np.testing.assert_allclose(logps, np.log(softmax(LOGITS))[np.asarray(tokens)], atol=1e-5)
    return np.bincount(tokens, minlength=len(LOGITS))


def chi_square(found, p):
    kept = p > 0
    assert found[~kept].sum() == 0
    expected = p[kept] * found.sum()
    return ((found[kept] - expected) ** 2 / expected).sum()


# 99.9th percentile of chi-square with at most five degrees of freedom
LIMIT = 20.5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax(temperature):
    assert chi_square(counts(temperature=temperature), softmax(LOGITS / temperature)) < LIMIT


def test_the_wrong_temperature_would_be_seen():
    assert chi_square(counts(temperature=1.0), softmax(LOGITS / 0.8)) > LIMIT


def test_top_k_keeps_k_and_renormalises():
    p = softmax(LOGITS) * (np.arange(6) < 3)
    assert chi_square(counts(temperature=1.0, top_k=3), p / p.sum()) < LIMIT


def test_top_p_keeps_the_nucleus_and_renormalises():
    p = softmax(LOGITS)
    inside = np.cumsum(p) - p < 0.8
    assert 1 < inside.sum() < 6
    p = p * inside
    assert chi_square(counts(temperature=1.0, top_p=0.8), p / p.sum()) < LIMIT


@pytest.mark.parametrize(
    ("k", "p", "kept"),
    [
        (None, None, 5), (1, None, 1), (4, None, 4), (9, None, 5), (None, 1.0, 5),
        (None, 0.45, 1), (None, 0.5, 2), (None, 0.75, 3), (None, 0.76, 3), (None, 1e-6, 1),
        (2, 0.65, 2), (2, 0.6, 1),
    ],
)  # fmt: skip
def test_masks(k, p, kept):
    # Probabilities 0.46, 0.28, 0.14, 0.08, 0.04, shuffled; of the first two alone 0.62, 0.38.
    order = np.array([3, 0, 4, 1, 2])
    logits = np.log(np.array([0.46, 0.28, 0.14, 0.08, 0.04]))[order]
    found = np.asarray(sampler.top(jnp.asarray(logits)[None], k=k, p=p))[0]
    np.testing.assert_array_equal(np.isfinite(found), order < kept)
    np.testing.assert_allclose(found[order < kept], logits[order < kept], rtol=1e-6)


def test_ties_with_the_last_one_are_kept():
    found = sampler.top(jnp.array([[1.0, 0.0, 0.0, -1.0]]), k=2, p=None)
    np.testing.assert_array_equal(np.isfinite(found)[0], [True, True, True, False])


@pytest.mark.parametrize("p", [0.03, 0.5, 0.98])
@pytest.mark.parametrize("k", [1, 7, 299])
def test_what_is_kept_is_what_a_sort_keeps(k, p):
    """Over both signs and with ties, zeros of both signs among them."""
    logits = np.random.default_rng(0).normal(0, 2, (5, 300)).round(1).astype(np.float32)
    falling = -np.sort(-logits)
    last = falling[:, [k - 1]]
    mass = np.cumsum(softmax_rows(falling), -1)
    edge = falling[np.arange(5), (mass < p).sum(-1)][:, None]
    for options, wanted in ((dict(k=k, p=None), last), (dict(k=None, p=p), edge)):
        found = sampler.top(jnp.asarray(logits), **options)
        np.testing.assert_array_equal(np.isfinite(found), logits >= wanted)


def test_draws_are_those_of_categorical():
    logits = 2 * jax.random.normal(jax.random.key(2), (9, 700))
    keys = jax.random.split(jax.random.key(3), 9)
    wanted = jax.vmap(jax.random.categorical)(keys, logits)
    np.testing.assert_array_equal(sampler.make(temperature=1.0)(logits, keys)[0], wanted)
    ties = jnp.array([[-1.0, 3.0, 3.0, 2.0], [0.0, -0.0, 0.0, -1.0]])
    np.testing.assert_array_equal(sampler.make()(ties, keys[:2])[0], [1, 0])


def test_temperature_zero_is_the_argmax():
    assert set(np.nonzero(counts(draws=3))[0]) == {0}


def test_a_row_draws_with_its_own_key():
    pick = sampler.make(temperature=1.0)
    keys, logits = jax.random.split(jax.random.key(0), 16), jnp.zeros((16, 1000))
    tokens, _ = pick(logits, keys)
    again, _ = pick(logits[3:5], keys[3:5])
    np.testing.assert_array_equal(tokens[3:5], again)
    assert len(set(np.asarray(tokens).tolist())) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(temperature=-1.0), "temperature: got -1.0"),
        (dict(top_k=0), "top_k: got 0"),
        (dict(top_p=0.0), "top_p: got 0.0"),
        (dict(top_p=1.5), "top_p: got 1.5"),
    ],
)
def test_impossible_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        sampler.make(**options)


def test_min_p_keeps_what_is_likely_enough():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    kept = sampler.top(logits, k=None, p=None, min_p=0.25)
    np.testing.assert_array_equal(jnp.isfinite(kept), [[True, True, True, False]])


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_tempered_logps_are_of_what_was_drawn_from(temperature):
    logits = jax.random.normal(jax.random.key(0), (3, 7))
    keys = jax.random.split(jax.random.key(1), 3)
    tokens, logps = sampler.make(temperature=temperature, tempered=True)(logits, keys)
    wanted = jax.nn.log_softmax(logits / temperature)[jnp.arange(3), tokens]
    np.testing.assert_allclose(logps, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "kept"), [(dict(top_p=0.6), 1), (dict(min_p=0.3), 1), (dict(top_k=2), 2)], ids=str
)
def test_what_is_cut_is_cut_after_the_temperature(options, kept):
    """At 0.5 the first of these has 0.83 of it all and the second a seventh of that.

    At 1 it has 0.56, and the second 0.37 of that: top_p and min_p would keep both.
    """
    found = counts(temperature=0.5, **options)
    assert (found > 0).sum() == kept
    assert (counts(temperature=1.0, **options) > 0).sum() == 2


def test_rows_with_numbers_of_their_own_are_drawn_as_alone():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(6, 40)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 6)
    heat, mass = np.float32([0, 1, 1, 0.5, 2, 0]), np.float32([1, 1, 0.3, 0.9, 1, 0.2])
    tokens, logps = sampler.sample_rows(logits, keys, temperature_B=heat, top_p_B=mass)
    for i in range(6):
        alone = sampler.make(temperature=float(heat[i]), top_p=float(mass[i]))
        token, logp = alone(logits[i : i + 1], keys[i : i + 1])
        assert tokens[i] == token[0]
        np.testing.assert_allclose(logps[i, tokens[i]], logp[0], atol=1e-6)
    np.testing.assert_allclose(jnp.exp(logps).sum(-1), 1, atol=1e-5)
