"""Preference accuracy: rewards by definition, ties, and what a reward model scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.evals import preference
from ftjax.evals.lib import scoring

GENERATOR = np.random.default_rng(0)


def answer(length):
    tokens = GENERATOR.integers(1, 48, length).astype(np.int32)
    return tokens, (np.arange(length) > 2).astype(np.float32)


PAIRS = [(answer(int(n)), answer(int(m))) for n, m in GENERATOR.integers(5, 20, (5, 2))]


def make(model, **options):
    return preference.make(model=model, pairs=PAIRS, batch_size=4, chunk=7, **options)


def test_a_model_is_at_chance_against_itself(model, params):
    found = make(model)(params)
    assert found["accuracy"] == 0.5
    assert found["reward_margin"] == 0


def test_the_ratio_is_that_of_sums(model, params):
    other = {"model": model.init(jax.random.key(1)), "adapters": None}
    got = make(model, beta=0.3, reference=lambda _: other).examples(params)
    score = scoring.make_scorer(model, batch_size=4)
    for side, name in enumerate(("chosen", "rejected")):
        flat = [pair[side] for pair in PAIRS]
        wanted = 0.3 * (score(params, flat)[0] - score(other, flat)[0])
        np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=1e-5)


def test_likelihood_is_per_token(model, params):
    got = make(model, score="likelihood").examples(params)["chosen"]
    logp, tokens = scoring.make_scorer(model, batch_size=4)(params, [pair[0] for pair in PAIRS])
    np.testing.assert_allclose(got, logp / tokens, rtol=1e-5)


def test_a_reward_is_read_at_the_last_token(model, params):
    head = jax.random.normal(jax.random.key(2), (model.config.dim,))
    got = make(model, score="reward").examples(params | {"head": {"reward": head}})
    tokens = jnp.asarray(PAIRS[0][1][0])[None]
    x = model.hidden(
        params["model"], tokens, positions_BT=jnp.arange(tokens.shape[1])[None],
        segments_BT=jnp.ones_like(tokens),
    )  # fmt: skip
    assert got["rejected"][0] == pytest.approx(float(x[0, -1] @ head), rel=1e-4)


def test_the_summary_counts_ties_half():
    arrays = {"chosen": np.array([1.0, 2.0, 3.0]), "rejected": np.array([0.0, 2.0, 5.0])}
    found = preference.summary(arrays)
    assert found["accuracy"] == 0.5
    assert found["reward_margin"] == pytest.approx(-1 / 3)


def test_an_unknown_score_is_refused(model):
    with pytest.raises(ValueError, match=r"got 'ration'; expected one of .* did you mean 'ratio'"):
        make(model, score="ration")
