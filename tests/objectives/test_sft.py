"""The terms of supervised fine-tuning, from log-probabilities written out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.objectives import sft
from ftjax.train.policy import Total


@dataclasses.dataclass(frozen=True)
class Table:
    """A policy of known logits [B,T-1,V]."""

    logits: Any

    def total(self, loss, batch, weights, key=None):
        logz = jax.nn.logsumexp(self.logits, -1)
        targets = batch["tokens"][:, 1:, None]
        logp = jnp.take_along_axis(self.logits, targets, -1)[..., 0] - logz
        return Total((weights * loss(logp, logz, self.logits.mean(-1))).sum(), logp)


LOGITS = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32) + 2
BATCH = {
    "tokens": np.int32([[0, 1, 2, 3], [4, 3, 2, 1]]),
    "weights": np.float32([[0, 1, 2, 1]] * 2),
}


def value(logits, **options):
    return sft.make(**options)(Table(logits), None, BATCH, None)["loss"].value()


def parts(logits):
    """Log-probabilities of all tokens, and of the targets."""
    logp = jax.nn.log_softmax(logits)
    return logp, jnp.take_along_axis(logp, BATCH["tokens"][:, 1:, None], -1)[..., 0]


def mean(values):
    weights = BATCH["weights"][:, 1:]
    return (values * weights).sum() / weights.sum()


@pytest.mark.parametrize("s", [0.1, 0.4])
def test_label_smoothing_spreads_a_share_over_the_vocabulary(s):
    def wanted(logits):
        every, target = parts(logits)
        return mean(-(1 - s) * target - s * every.mean(-1))

    for both in (lambda f: f(LOGITS), lambda f: jax.grad(f)(LOGITS)):
        found = both(lambda logits: value(logits, label_smoothing=s))
        np.testing.assert_allclose(found, both(wanted), rtol=1e-5, atol=1e-6)


def test_the_z_loss_is_the_square_of_log_z():
    """The gradient of z (log Z)^2 is 2 z log Z softmax, and a level of logits is no longer free."""
    z, logz = 0.5, jax.nn.logsumexp(LOGITS, -1)
    added = value(LOGITS, z_loss=z) - value(LOGITS)
    np.testing.assert_allclose(added, z * mean(jnp.square(logz)), rtol=1e-5)
    slope = lambda **options: jax.grad(lambda logits: value(logits, **options))(LOGITS)
    weights = BATCH["weights"][:, 1:] / BATCH["weights"][:, 1:].sum()
    wanted = (2 * z * weights * logz)[..., None] * jax.nn.softmax(LOGITS)
    np.testing.assert_allclose(slope(z_loss=z) - slope(), wanted, rtol=1e-4, atol=1e-6)
