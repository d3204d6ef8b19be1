"""Kahneman-Tversky optimisation (arXiv:2402.01306): single answers that are good or bad.

    r = log pi(y|x) - log pi_ref(y|x)       z = max(0, mean of r over answers to other prompts)
    loss = w_good (1 - sigmoid(beta (r - z)))    or    w_bad (1 - sigmoid(beta (z - r)))

z, an estimate of the policy's KL from the reference, takes no gradient. P = 0 is the answer, P = 1
an answer to another prompt; `label` [B,S] is 1 where the answer is good. `kl=False` sets z = 0 and
does without those answers: APO-zero for unpaired data (arXiv:2408.06266).
"""

import jax
import jax.numpy as jnp

from ftjax.core.mean import Mean
from ftjax.core.typed import NonNegative, Positive
from ftjax.objectives.losses import sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(beta=0.3, good_weight=1.5, bad_weight=0.75)
# z is one number a microbatch: the mean over its rows.
SPEC = Spec(
    data="unpaired",
    reference=True,
    couples_rows=lambda kl=True, **_: kl,
    hyper=("beta", "good_weight", "bad_weight"),
)


def make(
    *, beta: Positive = 0.1, good_weight: NonNegative = 1.0, bad_weight: NonNegative = 1.0,
    kl: bool = True,
):  # fmt: skip
    """Make the objective; the weights make up for a lack of good or of bad answers."""

    def ratio(policy, reference, batch, key=None):
        """Compute log pi - log pi_ref of whole answers [B,S]."""
        own = sequence.answers(policy.logps(batch, key), batch)
        base = sequence.answers(reference.logps(batch), batch)
        return own.logp - jax.lax.stop_gradient(base.logp)

    def objective(policy, reference, batch, key):
        weight_BS, good_BS = batch["examples"], batch["label"]
        r_BS = ratio(policy, reference, sequence.take(batch, 0), key)
        z = Mean(jnp.float32(0), jnp.float32(1))
        if kl:
            # z takes no gradient: its pass keeps nothing for a backward pass, and has no dropout.
            other = ratio(policy.without_gradient(), reference, sequence.take(batch, 1))
            z = Mean.of(other, weight_BS)
        level = jax.nn.relu(z.value())
        loss = losses(r_BS, good_BS, level, beta=beta)
        loss = loss * jnp.where(good_BS > 0, good_weight, bad_weight)
        reward = lambda where: Mean.of(beta * r_BS, weight_BS * where)
        found = {"reward/good": reward(good_BS), "reward/bad": reward(1 - good_BS)}
        return {"loss": Mean.of(loss, weight_BS), "kl": Mean(level, jnp.float32(1))} | found

    return objective


def losses(ratio, good, level, *, beta: float) -> jax.Array:
    """Score log-ratios against the level z: to be above it where `good` is 1, below where 0."""
    return 1 - jax.nn.sigmoid(beta * jnp.where(good > 0, ratio - level, level - ratio))
