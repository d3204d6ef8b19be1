"""The mixture of two models is the softmax of their mixed logits, at every token."""

import jax
import numpy as np
import pytest

from ftjax.sampling import generation, geometric_mixture
from tests import decoders
from tests.sampling.test_generation import NEW, PROMPTS, batch, full_logits
from tests.sampling.test_sampler import LIMIT, chi_square, softmax

SHARE = 0.3


@pytest.fixture(scope="module")
def small():
    """Another model of the vocabulary, with fewer layers and a narrower state."""
    handle = decoders.make(layers=1, dim=16, max_positions=64)
    return handle, {"model": handle.init(jax.random.key(7)), "adapters": None}


def mixed_logps(model, params, other, other_params, ids, temperature=1.0):
    own, theirs = full_logits(model, params, ids), full_logits(other, other_params, ids)
    return jax.nn.log_softmax(((1 - SHARE) * own + SHARE * theirs) / temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_mixed_logits(temperature, model, adapted, small):
    other, other_params = small
    both = geometric_mixture.make(model, other, share=SHARE)
    sample = generation.make(
        both, max_new_tokens=NEW, temperature=temperature, tempered=True, samples=2, slots=4
    )
    joined = geometric_mixture.join(adapted, other_params)
    output = sample(joined, *batch(PROMPTS), jax.random.key(0))
    for row, (found, logps) in enumerate(zip(output.tokens, output.logps, strict=True)):
        ids = PROMPTS[row // 2]
        wanted = mixed_logps(
            model, adapted, other, other_params, ids + found.tolist(), temperature
        )[len(ids) - 1 : -1]
        np.testing.assert_allclose(logps, wanted[np.arange(NEW), found], atol=1e-4)


def test_frequencies_are_those_of_the_mixed_logits(model, adapted, params):
    both, draws = geometric_mixture.make(model, model, share=SHARE), 4000
    sample = generation.make(both, max_new_tokens=1, temperature=1.0, samples=draws)
    output = sample(geometric_mixture.join(adapted, params), *batch(PROMPTS[:1]), jax.random.key(0))
    logps = mixed_logps(model, adapted, model, params, PROMPTS[0])[len(PROMPTS[0]) - 1]
    # The five likeliest tokens, and all others as one: five degrees of freedom.
    top = np.argsort(-logps)[:5]
    counts = np.bincount(output.tokens[:, 0], minlength=len(logps))
    lump = lambda values: np.append(values[top], values.sum() - values[top].sum())
    assert chi_square(lump(counts), lump(softmax(np.asarray(logps)))) < LIMIT
    alone = softmax(full_logits(model, adapted, PROMPTS[0])[len(PROMPTS[0]) - 1])
    assert chi_square(lump(counts), lump(alone)) > LIMIT


@pytest.mark.parametrize(("share", "which"), [(0.0, "adapted"), (1.0, "params")])
def test_the_ends_are_the_models_themselves(share, which, model, adapted, params, request):
    both = geometric_mixture.make(model, model, share=share)
    options = dict(max_new_tokens=NEW, temperature=1.0)
    found = generation.make(both, **options)(
        geometric_mixture.join(adapted, params), *batch(PROMPTS), jax.random.key(3)
    )
    alone = generation.make(model, **options)(
        request.getfixturevalue(which), *batch(PROMPTS), jax.random.key(3)
    )
    np.testing.assert_array_equal(found.tokens, alone.tokens)
    np.testing.assert_allclose(found.logps, alone.logps, atol=1e-5)


def test_positions_are_those_of_the_shorter_model(model, small):
    assert geometric_mixture.make(model, small[0], share=SHARE).max_length() == 64


def test_what_cannot_be_mixed_is_refused(model):
    with pytest.raises(ValueError, match=r"share 1\.5; expected"):
        geometric_mixture.make(model, model, share=1.5)
    with pytest.raises(ValueError, match="got 48 and 50 tokens"):
        geometric_mixture.make(model, decoders.make(vocab_size=50), share=SHARE)
