"""The losses of direct preference optimisation, by name: pure functions of a batch of pairs.

r is the log-ratio log pi - log pi_ref of a whole answer (under another f-divergence, its value), w
the chosen and l the rejected one, d = r_w - r_l, s the sigmoid, b is beta, e label smoothing:

    sigmoid        -log s(b d), smoothed: conservative DPO               arXiv:2305.18290
    sigmoid_norm   the same with r per token
    hinge          max(0, 1 - b d)                                       arXiv:2305.10425
    ipo            (d - 1 / (2 b))^2 with r per token                    arXiv:2310.12036
    robust         (-(1 - e) log s(b d) + e log s(-b d)) / (1 - 2 e)     arXiv:2403.00409
    exo_pair       KL of (s(b d), s(-b d)) to (1 - e, e)                 arXiv:2402.00856
    nca_pair       -log s(b r_w) - log s(-b r_w) / 2 - log s(-b r_l) / 2 arXiv:2402.05369
    bco_pair       -log s(b r_w) - log s(-b r_l)                         arXiv:2404.04656
    sppo_hard      (r_w - 1 / (2 b))^2 + (r_l + 1 / (2 b))^2             arXiv:2405.00675
    apo_zero       1 - s(b r_w) + s(b r_l)                               arXiv:2408.06266
    apo_down       s(b r_w) + 1 - s(b d)                                 arXiv:2408.06266
    discopop       logistic and exponential loss, blended by s(b d / t)  arXiv:2406.08414
    aot            sigmoid of the sorted margins of policy and reference arXiv:2406.05882
    aot_unpaired   sigmoid of sorted r_w less sorted r_l                 arXiv:2406.05882

A module of one's own may hold more; `loss="my_lab.losses.mine"` finds them.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ftjax.objectives.losses import margin as contrast


class Pairs(NamedTuple):
    """A batch of pairs, arrays of one shape; whatever lies where `weight` is 0 is not there."""

    chosen: jax.Array  # value of the chosen answer's log-ratio
    rejected: jax.Array
    chosen_tokens: jax.Array  # lengths of the answers
    rejected_tokens: jax.Array
    policy_margin: jax.Array  # log pi(chosen) - log pi(rejected)
    reference_margin: jax.Array
    weight: jax.Array

    @property
    def margin(self) -> jax.Array:
        """By how much the policy has learned to prefer the chosen answer."""
        return self.chosen - self.rejected

    @property
    def mean_margin(self) -> jax.Array:
        """The same from values per token."""
        return self.chosen / self.chosen_tokens - self.rejected / self.rejected_tokens


def sigmoid(pairs: Pairs, *, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """Maximise the likelihood of the preferences under Bradley and Terry's model."""
    return contrast.sigmoid(pairs.margin, beta=beta, label_smoothing=label_smoothing)


def sigmoid_norm(pairs: Pairs, *, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """Do so with values per token, so that length does not count."""
    return contrast.sigmoid(pairs.mean_margin, beta=beta, label_smoothing=label_smoothing)


def hinge(pairs: Pairs, *, beta: float) -> jax.Array:
    """Ask for a margin and no more."""
    return contrast.hinge(pairs.margin, beta=beta)


def ipo(pairs: Pairs, *, beta: float) -> jax.Array:
    """Ask for one margin per token exactly, so that certain preferences do not overfit."""
    return contrast.squared(pairs.mean_margin, beta=beta)


def robust(pairs: Pairs, *, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """Estimate the clean loss without bias where a share `label_smoothing` of labels is flipped."""
    right, wrong = (jax.nn.log_sigmoid(x * pairs.margin) for x in (beta, -beta))
    e = label_smoothing
    return (-(1 - e) * right + e * wrong) / (1 - 2 * e)


def exo_pair(pairs: Pairs, *, beta: float, label_smoothing: float = 1e-3) -> jax.Array:
    """Minimise the reverse KL of the policy's preference to the smoothed label; e is not 0."""
    right, wrong = (jax.nn.log_sigmoid(x * pairs.margin) for x in (beta, -beta))
    label = math.log1p(-label_smoothing), math.log(label_smoothing)
    return jnp.exp(right) * (right - label[0]) + jnp.exp(wrong) * (wrong - label[1])


def nca_pair(pairs: Pairs, *, beta: float) -> jax.Array:
    """Classify each answer against noise, which keeps the chosen one's likelihood from falling."""
    log_s = jax.nn.log_sigmoid
    w, l = beta * pairs.chosen, beta * pairs.rejected  # noqa: E741 - as in the paper
    return -log_s(w) - 0.5 * log_s(-w) - 0.5 * log_s(-l)


def bco_pair(pairs: Pairs, *, beta: float) -> jax.Array:
    """Classify each answer by itself."""
    log_s = jax.nn.log_sigmoid
    return -log_s(beta * pairs.chosen) - log_s(-beta * pairs.rejected)


def sppo_hard(pairs: Pairs, *, beta: float) -> jax.Array:
    """Push each log-ratio to its own side of zero, as far as self-play says."""
    half = 0.5 / beta
    return jnp.square(pairs.chosen - half) + jnp.square(pairs.rejected + half)


def apo_zero(pairs: Pairs, *, beta: float) -> jax.Array:
    """Raise the chosen and lower the rejected answer: for data better than the model."""
    s = jax.nn.sigmoid
    return 1 - s(beta * pairs.chosen) + s(beta * pairs.rejected)


def apo_down(pairs: Pairs, *, beta: float) -> jax.Array:
    """Lower both, the rejected one more: for data worse than the model."""
    s = jax.nn.sigmoid
    return s(beta * pairs.chosen) + 1 - s(beta * pairs.margin)


def discopop(pairs: Pairs, *, beta: float, tau: float = 0.05) -> jax.Array:
    """Blend the logistic with the exponential loss: a form that a language model discovered."""
    logits = beta * pairs.margin
    gate = jax.nn.sigmoid(logits / tau)
    return -jax.nn.log_sigmoid(logits) * (1 - gate) + jnp.exp(-logits) * gate


def aot(pairs: Pairs, *, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """Align the batch's distribution of margins with the reference's, quantile by quantile."""
    return _aligned(pairs.policy_margin, pairs.reference_margin, pairs, beta, label_smoothing)


def aot_unpaired(pairs: Pairs, *, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """Align the distributions of chosen and rejected values, whichever pair they are of."""
    return _aligned(pairs.chosen, pairs.rejected, pairs, beta, label_smoothing)


def _aligned(above, below, pairs: Pairs, beta, label_smoothing):
    """Compare quantiles; the k-th value goes to the k-th pair that is there."""
    # Pairs that are not there sort to the end as inf; inf - inf is NaN, hence the 0 for them.
    there = pairs.weight.reshape(-1) > 0
    quantiles = lambda x: jnp.sort(jnp.where(there, x.reshape(-1), jnp.inf))
    margin = jnp.where(jnp.sort(~there), 0.0, quantiles(above) - quantiles(below))
    losses = contrast.sigmoid(margin, beta=beta, label_smoothing=label_smoothing)
    places = jnp.argsort(~there, stable=True)
    return jnp.zeros_like(losses).at[places].set(losses).reshape(pairs.weight.shape)
