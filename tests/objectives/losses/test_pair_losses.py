"""Losses of pairs, rankings and divergences in closed form; each against its formula in numpy."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.objectives.losses import dpo_losses, f_divergence, kl, margin, ranking

GENERATOR = np.random.default_rng(0)
W, L, OWN, BASE = GENERATOR.normal(size=(4, 2, 3)).astype(np.float32)
W_TOKENS, L_TOKENS = GENERATOR.integers(1, 9, (2, 2, 3)).astype(np.float32)
WEIGHT = np.float32([[1, 2, 1], [0, 1, 1]])
PAIRS = dpo_losses.Pairs(*map(jnp.asarray, (W, L, W_TOKENS, L_TOKENS, OWN, BASE, WEIGHT)))
B, E, TAU = 0.7, 0.2, 0.4
M = W - L
MEAN = W / W_TOKENS - L / L_TOKENS


def s(x):
    return 1 / (1 + np.exp(-x))


def log_s(x):
    return np.log(s(x))


def blended():
    gate = s(B * M / TAU)
    return -log_s(B * M) * (1 - gate) + np.exp(-B * M) * gate


# By name: the keywords besides beta, and the formula of the papers.
PAIR_LOSSES = {
    "sigmoid": ({"label_smoothing": E}, -(1 - E) * log_s(B * M) - E * log_s(-B * M)),
    "sigmoid_norm": ({"label_smoothing": E}, -(1 - E) * log_s(B * MEAN) - E * log_s(-B * MEAN)),
    "hinge": ({}, np.maximum(0, 1 - B * M)),
    "ipo": ({}, (MEAN - 1 / (2 * B)) ** 2),
    "robust": ({"label_smoothing": E}, (-(1 - E) * log_s(B * M) + E * log_s(-B * M)) / (1 - 2 * E)),
    "exo_pair": (
        {"label_smoothing": E},
        s(B * M) * np.log(s(B * M) / (1 - E)) + s(-B * M) * np.log(s(-B * M) / E),
    ),
    "nca_pair": ({}, -log_s(B * W) - 0.5 * log_s(-B * W) - 0.5 * log_s(-B * L)),
    "bco_pair": ({}, -log_s(B * W) - log_s(-B * L)),
    "sppo_hard": ({}, (W - 0.5 / B) ** 2 + (L + 0.5 / B) ** 2),
    "apo_zero": ({}, 1 - s(B * W) + s(B * L)),
    "apo_down": ({}, s(B * W) + 1 - s(B * M)),
    "discopop": ({"tau": TAU}, blended()),
}


def test_every_loss_of_a_pair_has_its_formula_here():
    functions = inspect.getmembers(dpo_losses, inspect.isfunction)
    own = [name for name, f in functions if f.__module__ == dpo_losses.__name__]
    names = {name for name in own if not name.startswith("_")}
    assert names == {*PAIR_LOSSES, "aot", "aot_unpaired"}


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_pair(name):
    options, wanted = PAIR_LOSSES[name]
    found = vars(dpo_losses)[name](PAIRS, beta=B, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "above", "below"),
    [("aot", OWN, BASE), ("aot_unpaired", W, L)],
    ids=["aot", "unpaired"],
)
def test_quantiles_of_the_pairs_that_are_there(name, above, below):
    there = WEIGHT > 0
    margins = np.sort(above[there]) - np.sort(below[there])
    found = np.asarray(vars(dpo_losses)[name](PAIRS, beta=B, label_smoothing=E))[there]
    wanted = -(1 - E) * log_s(B * margins) - E * log_s(-B * margins)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_margins():
    np.testing.assert_allclose(margin.sigmoid(M, beta=B), -log_s(B * M), rtol=1e-5)
    np.testing.assert_allclose(margin.hinge(M, beta=B), np.maximum(0, 1 - B * M), rtol=1e-5)
    np.testing.assert_allclose(margin.squared(M, beta=B), (M - 1 / (2 * B)) ** 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [("reverse_kl", {}, M), ("forward_kl", {}, 1 - np.exp(-M)),
     ("js_divergence", {}, np.log(2) + log_s(M)),
     ("alpha_divergence", {"alpha": 0.3}, (np.exp(-0.7 * M) - 1) / -0.7)],
)  # fmt: skip
def test_values_of_a_log_ratio(name, options, wanted):
    found = vars(f_divergence)[name](M, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert float(vars(f_divergence)[name](0.0, **options)) == pytest.approx(0, abs=1e-6)


def test_estimators_of_the_divergence():
    d = OWN - BASE
    np.testing.assert_allclose(kl.k1(OWN, BASE), d, rtol=1e-6)
    np.testing.assert_allclose(kl.k2(OWN, BASE), d**2 / 2, rtol=1e-5)
    np.testing.assert_allclose(kl.k3(OWN, BASE), np.exp(-d) - 1 + d, rtol=1e-4, atol=1e-6)


def test_rankings_of_those_that_are_there():
    """The first example has three answers, the second two."""
    scores, there = np.float32([[1.0, 0.2], [0.5, 0.9], [-1.0, 7.0]]), np.float32([[1, 1]] * 2)
    there = np.concatenate([there, [[1, 0]]]).astype(np.float32)
    a, b, c = np.exp(scores[:, 0])
    first = -np.log(a / (a + b + c)) - np.log(b / (b + c))
    second = -log_s(0.2 - 0.9)
    found = ranking.plackett_luce(scores[None], there[None])[0]
    np.testing.assert_allclose(found, [first, second], rtol=1e-5)
    pairs = -(log_s(0.5) + log_s(2.0) + log_s(1.5)) / 3
    found = ranking.all_pairs(scores[None], there[None])[0]
    np.testing.assert_allclose(found, [pairs, second], rtol=1e-5)
