"""The verifier's loss is the binary cross-entropy, of whole answers alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.objectives import outcome_reward


def test_it_is_the_cross_entropy():
    scores, good = np.float32([0.3, -2.0, 5.0, 0.0]), np.float32([1, 0, 0, 1])
    p = 1 / (1 + np.exp(-scores))
    wanted = -(good * np.log(p) + (1 - good) * np.log(1 - p))
    np.testing.assert_allclose(outcome_reward.losses(scores, good), wanted, rtol=1e-5)


class Scores:
    """A policy whose score of a token is the token."""

    def scores(self, batch, key):
        assert batch["tokens"].ndim == 2  # the mismatched answers are left out
        return batch["tokens"].astype(jnp.float32)


def test_it_reads_the_last_token_of_each_answer_by_weight():
    tokens = jnp.asarray([[[9, 9, 2, 9, -3, 7], [8] * 6]])
    segments = jnp.asarray([[[1, 1, 1, 2, 2, 0], [1, 1, 1, 2, 2, 0]]])
    numbers = dict(examples=jnp.asarray([[1.0, 3.0]]), label=jnp.asarray([[1.0, 1.0]]))
    batch = dict(tokens=tokens, segments=segments, weights=segments, **numbers)
    found = outcome_reward.make()(Scores(), None, batch, None)
    wanted = (np.log1p(np.exp(-2)) + 3 * np.log1p(np.exp(3))) / 4
    assert float(found["loss"].value()) == pytest.approx(wanted, rel=1e-5)
    assert float(found["reward/accuracy"].value()) == 0.25
    assert float(found["reward/good"].value()) == pytest.approx((2 - 9) / 4)
