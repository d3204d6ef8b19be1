"""Hidden states of targets: which tokens, in which order, and that they are the model's own."""

import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.evals.lib import scoring, token_states
from tests.evals.test_nll import EXAMPLES


@pytest.fixture(scope="module")
def wanted(model, adapted):
    """States of every target by a loop over examples, each alone and without padding."""
    found = []
    for tokens, weights in sorted(EXAMPLES, key=lambda each: len(each[0])):
        batch = scoring.rectangle([(tokens, weights)], batch_size=1, width=len(tokens))
        own = np.asarray(scoring.states(model, adapted, batch)[0])[0, :-1]
        found += [own[i] for i in range(len(tokens) - 1) if weights[i + 1]]
    return np.stack(found)


def test_they_are_those_that_predict_a_target(model, adapted, wanted):
    states_of = token_states.make(model, batch_size=4)
    np.testing.assert_allclose(states_of(adapted, EXAMPLES), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_of_many_every_third_is_taken_however_they_are_batched(model, adapted, wanted, batch_size):
    most = -(-len(wanted) // 3)
    found = token_states.make(model, batch_size=batch_size, most=most)(adapted, EXAMPLES)
    np.testing.assert_allclose(found, wanted[::3], rtol=1e-4, atol=1e-5)


def test_over_a_mesh(model, adapted, wanted):
    mesh = meshes.make(data=4, fsdp=2)
    states_of = token_states.make(model, batch_size=8, mesh=mesh)
    np.testing.assert_allclose(states_of(adapted, EXAMPLES), wanted, rtol=1e-4, atol=1e-5)
