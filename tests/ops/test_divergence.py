"""Divergences of two distributions, written out."""

import jax
import numpy as np
import pytest

from ftjax.ops import divergence

STUDENT, TEACHER = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)


def softmax(logits):
    p = np.exp(logits)
    return p / p.sum(-1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_generalised_divergence(beta, temperature):
    s, t = softmax(STUDENT / temperature), softmax(TEACHER / temperature)
    m = beta * t + (1 - beta) * s
    wanted = {0.0: kl(t, s), 1.0: kl(s, t)}.get(beta, beta * kl(t, m) + (1 - beta) * kl(s, m))
    found = divergence.jsd(STUDENT, TEACHER, beta=beta, temperature=temperature)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_off_the_target_both_are_normalised_without_it(temperature):
    targets = np.int32([0, 4, 2])
    rest = np.arange(5) != targets[:, None]
    s, t = (
        softmax(logits[rest].reshape(3, 4) / temperature) for logits in (STUDENT, TEACHER)
    )  # fmt: skip
    of = lambda student: divergence.off_target(
        student, TEACHER, targets, beta=0, temperature=temperature
    )
    np.testing.assert_allclose(of(STUDENT), kl(t, s), rtol=1e-4)
    # How likely the target is does not count, and no gradient goes to it.
    np.testing.assert_allclose(of(STUDENT + 3 * ~rest), kl(t, s), rtol=1e-4)
    slope = np.asarray(jax.grad(lambda x: of(x).sum())(STUDENT))
    np.testing.assert_array_equal(slope[~rest], 0)
    assert np.abs(slope[rest]).min() > 0


def test_entropy():
    p = softmax(STUDENT)
    np.testing.assert_allclose(divergence.entropy(STUDENT), -(p * np.log(p)).sum(-1), rtol=1e-5)
