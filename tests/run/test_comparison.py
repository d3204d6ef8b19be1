import json

import numpy as np
import pytest

from ftjax.evals import choice, generate, nll
from ftjax.evals.lib import scoring
from ftjax.run import comparison as comparing

GROUPS = {"facts": "new", "wiki": "old", "quiz": "old", "copy": "old"}


def evaluator(module, **by_params):
    """An evaluator whose per-example arrays are given for "base" and "tuned"."""
    return scoring.Evaluator(lambda params: by_params[params], module.summary)


def score(correct):
    x = np.array(correct, float)
    return dict(correct=x, margin=2 * x - 1, nll=1 - x, chance=np.full(len(x), 0.25))


@pytest.fixture
def comparison():
    n = 40
    noise = np.random.default_rng(0).normal(size=n)
    evaluators = {
        "facts": evaluator(
            generate,
            base=dict(exact_match=np.zeros(n), f1=np.zeros(n)),
            tuned=dict(exact_match=np.ones(n), f1=np.ones(n)),
        ),
        "wiki": evaluator(
            nll, base=dict(nll=np.full(n, 8.0), tokens=np.full(n, 4.0)),
            tuned=dict(nll=np.full(n, 8.0) + noise - noise.mean(), tokens=np.full(n, 4.0)),
        ),
        "quiz": evaluator(choice, base=score([1, 1, 1, 0]), tuned=score([1, 1, 0, 0])),
        "copy": evaluator(
            generate, base=dict(exact_match=np.zeros(3), f1=np.zeros(3)),
            tuned=dict(exact_match=np.zeros(3), f1=np.zeros(3)),
        ),
    }  # fmt: skip
    return comparing.compare(evaluators, "base", "tuned")


def test_numbers_by_label_and_metric(comparison):
    assert comparison.before["wiki/nll"] == 2.0
    assert comparison.after["facts/f1"] == 1.0
    assert comparison.estimates["facts/f1"] == (1, 1, 1, 40)
    low, high = comparison.estimates["wiki/nll"][1:3]
    assert low < 0 < high


def test_retention_counts_what_the_base_knows_above_chance(comparison):
    # quiz: (0.5 - 0.25) / (0.75 - 0.25); copy: the base has nothing to keep; facts are new
    assert comparing.kept(comparison, GROUPS) == pytest.approx(0.5)
    assert comparing.kept(comparison, GROUPS | {"quiz": "new"}) is None


def test_text_and_record(comparison):
    text = comparing.text(comparison, GROUPS, step=7)
    assert "step 7" in text
    assert "retention 0.500" in text
    assert "0.000   1.000  +1.000 [+1.00, +1.00] +" in text
    record = json.loads(json.dumps(comparing.record(comparison, GROUPS, step=7)))
    assert record["step"] == 7
    assert record["change"]["facts/f1"]["value"] == 1
    assert record["retention"] == pytest.approx(0.5)
    wanted = {"facts/exact_match": "better", "wiki/nll": "same", "quiz/accuracy": "same"}
    assert record["verdicts"].items() >= wanted.items()  # of four questions one: not resolved
