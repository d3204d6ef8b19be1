"""Estimators of KL(policy || reference) from samples of the policy (Schulman, 2020).

    d = log p - log q:     k1 = d,     k2 = d^2 / 2,     k3 = e^-d - 1 + d

k1 and k3 are unbiased values, k3 of less variance and never negative. As losses only k2 has the
right gradient on policy; weighted by the ratio of the policy to the sampler, k3 has it too
("corrected", arXiv:2512.02556).
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp


def k1(logp, reference):
    """Estimate by the log-ratio."""
    return logp - reference


def k2(logp, reference):
    """Estimate by half the square of the log-ratio."""
    return jnp.square(logp - reference) / 2


def k3(logp, reference):
    """Estimate by the log-ratio and a control variate."""
    return jnp.exp(reference - logp) - 1 - (reference - logp)


ESTIMATORS: Mapping[str, Callable] = {"k1": k1, "k2": k2, "k3": k3}
