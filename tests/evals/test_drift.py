import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.evals import drift
from ftjax.evals import preference as pairs
from ftjax.evals.lib import bootstrap, retention
from ftjax.evals.lib import drift as measures
from tests.evals.test_nll import EXAMPLES


@pytest.fixture(scope="module")
def evaluate(model):
    return drift.make(model=model, examples=EXAMPLES, base_of=pairs.adapters_off, batch_size=4)


@pytest.fixture(scope="module")
def scored(evaluate, adapted):
    return evaluate.examples(adapted)


def test_it_is_the_loop_over_tokens(scored, log_probs, params, adapted):
    totals = {"kl_forward": [], "kl_reverse": [], "tv": [], "top1_agreement": []}
    for tokens, weight in EXAMPLES:
        base, tuned = (log_probs(each, tokens)[:-1] for each in (params, adapted))
        p0, p = np.exp(base), np.exp(tuned)
        by_token = dict(
            kl_forward=(p0 * (base - tuned)).sum(-1), kl_reverse=(p * (tuned - base)).sum(-1),
            tv=np.abs(p0 - p).sum(-1) / 2, top1_agreement=base.argmax(-1) == tuned.argmax(-1),
        )  # fmt: skip
        for name, values in by_token.items():
            totals[name].append((values * weight[1:]).sum())
    for name, values in totals.items():
        np.testing.assert_allclose(scored[name], values, rtol=1e-4, atol=1e-5)
    assert scored["kl_forward"].sum() > 0.1
    assert not np.allclose(scored["kl_forward"], scored["kl_reverse"], rtol=1e-2)
    np.testing.assert_array_equal(scored["tokens"], [float(w[1:].sum()) for _, w in EXAMPLES])


def test_the_base_has_not_moved(evaluate, params):
    found = evaluate(params)
    assert found["kl_forward"] == found["kl_reverse"] == found["tv"] == 0
    assert found["top1_agreement"] == 1
    assert found["ce_to_base"] > 0
    assert set(found) == set(drift.METRICS)
    directions = {name: retention.direction(name) for name in measures.NAMES}
    assert directions == dict.fromkeys(measures.NAMES, -1) | {"top1_agreement": 1}


def test_batches_and_chunks_do_not_matter(model, adapted, evaluate, scored):
    other = drift.make(
        model=model, examples=EXAMPLES, base_of=pairs.adapters_off, batch_size=2, chunk=5
    )
    assert other(adapted) == pytest.approx(evaluate.summary(scored), rel=1e-4)


def test_over_a_mesh(model, adapted, evaluate, scored):
    mesh = meshes.make(data=4, fsdp=2)
    spread = drift.make(
        model=model, examples=EXAMPLES, base_of=pairs.adapters_off, batch_size=8, mesh=mesh
    )
    assert spread(adapted) == pytest.approx(evaluate.summary(scored), rel=1e-4)


def test_summary_by_hand():
    arrays = {name: np.array([3.0, 1.0, 0.0]) for name in measures.NAMES}
    found = drift.summary(arrays | {"tokens": np.array([6.0, 2.0, 0.0])})
    assert found["kl_forward"] == found["tv"] == 0.5  # per token
    assert found["kl_forward_per_sequence"] == found["kl_reverse_per_sequence"] == 2.0
    assert found["tokens"] == 8


def test_its_scores_have_paired_intervals(scored):
    found = bootstrap.differences(drift.summary, scored, scored, resamples=20)
    assert found["kl_forward"] == (0, 0, 0, len(EXAMPLES))


def test_no_targets_is_an_error(model):
    with pytest.raises(ValueError, match=r"evals\.drift: got 1 examples without any target"):
        drift.make(
            model=model,
            examples=[(np.arange(3), np.array([1.0, 0, 0]))],
            base_of=pairs.adapters_off,
        )
