"""Rewards of sampled answers: sums of parts, divergence by definition, other names of prompts."""

import numpy as np
import pytest

from ftjax.evals import reward
from ftjax.evals.lib import scoring
from ftjax.sampling import rewards, text

ROWS = [{"question": "one"}, {"prompt": "two and two"}]
ANSWERS = [
    text.Answer([1, 5, 6], [7, 8, 2], "a b", finished=True),
    text.Answer([1, 9], [10, 2], "c", finished=True),
]
SPECS = {
    "short": dict(name="length", max_length=1, weight=2.0),
    "silent": dict(name=f"{__name__}.silent"),
}


def silent():
    """Say something of the first prompt alone."""
    return lambda text, row: 1.0 if row["prompt"] == "one" else None


def make(model, **options):
    asked = []

    def sample(params, prompts):
        asked.append(prompts)
        return ANSWERS

    evaluate = reward.make(
        model=model, sample=sample, rewards=rewards.make(SPECS), rows=ROWS, **options
    )
    return evaluate, asked


def test_a_reward_is_the_sum_of_what_is_said(model, params):
    evaluate, asked = make(model)
    found = evaluate.examples(params)
    assert asked == [["one", "two and two"]]
    np.testing.assert_array_equal(found["reward_short"], [0, 1])
    np.testing.assert_array_equal(found["reward_silent"], [1, np.nan])
    np.testing.assert_array_equal(found["reward"], [1, 2])
    summary = evaluate.summary(found)
    assert (summary["reward"], summary["reward_silent"], summary["answer_tokens"]) == (1.5, 1, 2.5)
    assert "kl" not in summary


def test_the_divergence_is_of_the_sampled_tokens_alone(model, params, adapted):
    evaluate, _ = make(model, base_of=lambda own: {**own, "adapters": None}, batch_size=2)
    assert evaluate(params)["kl"] == 0
    score = scoring.make_scorer(model, batch_size=1)
    wanted = []
    for answer in ANSWERS:
        tokens = np.int32([*answer.prompt, *answer.tokens])
        new = (np.arange(len(tokens)) >= len(answer.prompt)).astype(np.float32)
        own, other = (score(p, [(tokens, new)])[0][0] for p in (adapted, params))
        wanted.append(own - other)
    np.testing.assert_allclose(evaluate.examples(adapted)["kl"], wanted, rtol=1e-4, atol=1e-5)


def test_no_prompt_is_refused(model):
    with pytest.raises(ValueError, match=r"evals.reward: got no row"):
        reward.make(model=model, sample=None, rewards=rewards.make(SPECS), rows=[])
