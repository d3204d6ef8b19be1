"""The terms of supervised fine-tuning, from log-probabilities written out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.objectives import dft, flow, sft, talr
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

    def logps(self, batch, key=None):
        return parts(self.logits)[1]


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


def same_with_gradient(one, other, rtol=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7),
        *(jax.value_and_grad(each)(LOGITS) for each in (one, other)),
    )


def of(objective):
    """Return `logits -> loss` of an objective."""
    return lambda logits: objective(Table(logits), None, BATCH, None)["loss"].value()


@pytest.mark.parametrize(("tau", "floor"), [(2.0, 0.05), (0.5, 0.3)])
def test_talr_weighs_tokens_by_a_power_of_their_probability(tau, floor):
    scale = np.maximum(np.exp(parts(LOGITS)[1] / tau), floor)  # without gradient
    assert floor == 0.05 or (scale == np.float32(floor)).any()
    same_with_gradient(of(talr.make(tau=tau, floor=floor)), lambda x: mean(-scale * parts(x)[1]))


def test_talr_of_tau_1_is_dft_and_of_floor_1_plain():
    same_with_gradient(of(talr.make(tau=1.0, floor=0.0)), of(dft.make()))
    both = talr.make(tau=2.0, floor=1.0), sft.make()
    jax.tree.map(
        np.testing.assert_array_equal, *(jax.value_and_grad(of(each))(LOGITS) for each in both)
    )


def test_flow_weighs_examples_by_the_base_s_loss():
    """The second row is packed: of two examples with one target each."""
    base = np.random.default_rng(1).normal(size=LOGITS.shape).astype(np.float32)
    batch = BATCH | {"segments": np.int32([[1, 1, 1, 1], [1, 1, 2, 2]])}
    batch["weights"] = np.float32([[0, 1, 2, 1], [0, 1, 0, 1]])
    hard, weights = -np.asarray(parts(base)[1]), batch["weights"][:, 1:]
    losses = np.array([[(hard[0] * [1, 2, 1]).sum() / 4] * 3, [hard[1, 0], hard[1, 2], hard[1, 2]]])
    own = weights * np.exp(-losses / 1.5)
    wanted = lambda x: (own * -parts(x)[1]).sum() / own.sum()
    found = lambda tau, name: (
        lambda x: flow.make(tau=tau)(Table(x), Table(base), batch, None)[name].value()
    )
    plain = lambda x: sft.make()(Table(x), None, batch, None)["loss"].value()
    same_with_gradient(found(1.5, "loss"), wanted)
    np.testing.assert_allclose(found(1.5, "nll")(LOGITS), plain(LOGITS), rtol=1e-6)
    both = found(1e9, "loss"), plain
    jax.tree.map(np.testing.assert_array_equal, *(jax.value_and_grad(f)(LOGITS) for f in both))
