import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.evals import nll
from ftjax.evals.lib import scoring


def make_examples(count=7):
    rng = np.random.default_rng(0)
    examples = []
    for length in rng.integers(2, 34, size=count):
        weights = rng.integers(0, 2, size=length).astype(np.float32)
        weights[-1] = 0.5
        weights[0] = 1  # a first token is no target, whatever it weighs
        examples.append((rng.integers(0, 48, size=length).astype(np.int32), weights))
    return examples


EXAMPLES = make_examples()


@pytest.fixture(scope="module")
def evaluate(model):
    return nll.make(model=model, examples=EXAMPLES, batch_size=4)


@pytest.fixture(scope="module")
def loop(log_probs):
    """Totals and weights, token by token."""

    def call(params):
        totals, weights = [], []
        for tokens, weight in EXAMPLES:
            logp = log_probs(params, tokens)
            terms = [weight[t] * logp[t - 1, tokens[t]] for t in range(1, len(tokens))]
            totals.append(-sum(terms))
            weights.append(float(weight[1:].sum()))
        return np.array(totals), np.array(weights)

    return call


@pytest.mark.parametrize(
    ("lengths", "most", "widths"),
    [
        ((17, 9, 3), 24, [16, 24]),  # no wider than what rows were cut to
        ((17, 9, 3), None, [16, 32]),
        ((30, 9, 3), 24, [16, 30]),  # one that was not cut
        ((3, 9, 5), 24, [16, 16]),
    ],
)
def test_how_wide_batches_are(lengths, most, widths):
    examples = [(np.ones(n, np.int32), np.ones(n, np.float32)) for n in lengths]
    found = scoring.batches(examples, batch_size=2, max_length=64, max_tokens=most)
    assert [batch["tokens"].shape[1] for _, batch in found] == widths


def test_narrower_batches_have_the_same_scores(model, params, evaluate):
    longest = max(len(tokens) for tokens, _ in EXAMPLES)
    assert longest < 32 < 2 * longest
    narrow = nll.make(model=model, examples=EXAMPLES, batch_size=4, max_tokens=longest)
    np.testing.assert_allclose(
        narrow.examples(params)["nll"], evaluate.examples(params)["nll"], rtol=1e-5
    )


@pytest.mark.parametrize("which", ["params", "adapted"])
def test_it_is_the_loop_over_tokens(which, evaluate, loop, request):
    params = request.getfixturevalue(which)
    totals, weights = loop(params)
    arrays = evaluate.examples(params)
    np.testing.assert_allclose(arrays["nll"], totals, rtol=1e-5)
    np.testing.assert_array_equal(arrays["tokens"], weights)
    found = evaluate(params)
    assert found["nll"] == pytest.approx(totals.sum() / weights.sum(), rel=1e-5)
    assert found["nll_per_example"] == pytest.approx((totals / weights).mean(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["nll"]))
    assert found["tokens"] == weights.sum()
    assert abs(found["nll"] - found["nll_per_example"]) > 1e-3


def test_targets_are_shifted_by_one(evaluate, loop, log_probs, params):
    totals, _ = loop(params)
    unshifted = [
        -sum(w[t] * log_probs(params, ids)[t, ids[t]] for t in range(1, len(ids)))
        for ids, w in EXAMPLES
    ]
    assert not np.allclose(totals, unshifted, rtol=1e-2)
    np.testing.assert_allclose(evaluate.examples(params)["nll"], totals, rtol=1e-5)


def test_batch_size_order_and_chunks_do_not_matter(model, params, evaluate):
    wanted = evaluate(params)
    for batch_size, chunk in ((1, 5), (16, 128)):
        other = nll.make(
            model=model, examples=EXAMPLES[::-1], batch_size=batch_size, chunk=chunk
        )  # fmt: skip
        assert other(params) == pytest.approx(wanted, rel=1e-6)


def test_the_program_is_shared_by_all_calls(model, params, adapted):
    traces = []

    class Counted:
        config, head, dtype = model.config, model.head, model.dtype
        max_length = staticmethod(model.max_length)

        def hidden(self, *args, **kwargs):
            traces.append(1)
            return model.hidden(*args, **kwargs)

    same_width = [(np.arange(3, 3 + n), np.ones(n)) for n in (2, 9, 16, 5)]
    evaluate = nll.make(model=Counted(), examples=same_width, batch_size=2)
    before = evaluate(params)
    assert len(traces) == 1
    after = evaluate(adapted)
    assert len(traces) == 2
    changed = jax.tree.map(lambda x: x * 1.01, adapted)
    assert evaluate(changed) != after
    assert evaluate(params) == before
    assert len(traces) == 2


def test_scorers_of_equal_models_share_a_program(model, params):
    traces, hidden = [], model.hidden
    same = dataclasses.replace(model)
    object.__setattr__(same, "hidden", lambda *a, **k: traces.append(1) or hidden(*a, **k))
    make = lambda of, **more: nll.make(model=of, examples=EXAMPLES[:2], batch_size=2, **more)
    first = make(same, chunk=9)(params)
    assert len(traces) == 1
    assert make(dataclasses.replace(model), chunk=9)(params) == first
    assert len(traces) == 1
    make(same, chunk=7)(params)
    assert len(traces) == 2
    low = dataclasses.replace(model, dtype=jnp.dtype(jnp.bfloat16))
    assert make(low, chunk=9)(params) != first
    mesh = meshes.make(data=2, devices=jax.devices()[:2])
    make(same, chunk=9, mesh=mesh)(params)
    assert len(traces) == 3


def test_over_a_mesh(model, adapted, evaluate):
    mesh = meshes.make(data=2, fsdp=2, tensor=2)
    spread = nll.make(model=model, examples=EXAMPLES, batch_size=4, mesh=mesh)
    placed = {
        "model": meshes.shardings(model.axes, adapted["model"], mesh),
        "adapters": meshes.replicated(mesh),
    }
    placed = {name: jax.device_put(adapted[name], place) for name, place in placed.items()}
    assert spread(placed) == pytest.approx(evaluate(adapted), rel=1e-5)
    with pytest.raises(ValueError, match="batch_size: got 3"):
        nll.make(model=model, examples=EXAMPLES, batch_size=3, mesh=mesh)


def test_bits_per_byte(model, params, evaluate):
    counts = list(range(10, 17))
    found = nll.make(model=model, examples=EXAMPLES, byte_counts=counts, batch_size=4)(params)
    total = evaluate.examples(params)["nll"].sum()
    assert found["bits_per_byte"] == pytest.approx(total / math.log(2) / sum(counts))
    with pytest.raises(ValueError, match="byte_counts: got 6; expected 7"):
        nll.make(model=model, examples=EXAMPLES, byte_counts=counts[1:])


def test_summary_by_hand():
    arrays = {"nll": np.array([6.0, 1.0, 0.0]), "tokens": np.array([2.0, 2.0, 0.0])}
    found = nll.summary(arrays)
    assert found == dict(
        nll=1.75, nll_per_example=1.75, perplexity=pytest.approx(math.exp(1.75)), tokens=4.0
    )
    found = nll.summary(arrays | {"bytes": np.array([4.0, 3.0, 0.0])})
    assert found["bits_per_byte"] == pytest.approx(1 / math.log(2))
    assert nll.summary({"nll": np.array([900.0]), "tokens": np.array([1.0])})["perplexity"] == (
        math.inf
    )


def test_no_targets_is_an_error(model):
    with pytest.raises(ValueError, match="got 1 examples without any target"):
        nll.make(model=model, examples=[(np.arange(3), np.array([1.0, 0, 0]))])


def test_longer_than_the_model_is_an_error(model, params):
    n = model.config.max_positions + 1
    evaluate = nll.make(model=model, examples=[(np.ones(n, int), np.ones(n))])
    with pytest.raises(ValueError, match=f"got {n}; expected at most {n - 1}"):
        evaluate(params)


def test_batches_cover_every_example_once_and_pad_with_nothing():
    seen = []
    for index, batch in scoring.batches(EXAMPLES, batch_size=3, max_length=64):
        assert batch["tokens"].shape[0] == 3
        for row, i in enumerate(index):
            n = len(EXAMPLES[i][0])
            np.testing.assert_array_equal(batch["tokens"][row, :n], EXAMPLES[i][0])
            np.testing.assert_array_equal(batch["positions"][row, :n], np.arange(n))
            assert (batch["segments"][row] == (np.arange(batch["tokens"].shape[1]) < n)).all()
        assert batch["weights"][len(index) :].sum() == 0
        seen += index
    assert sorted(seen) == list(range(len(EXAMPLES)))
