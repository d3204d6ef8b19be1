"""Binary classifier optimisation (arXiv:2404.04656): good and bad answers around a moving level.

    loss = -log sigmoid(b r - delta)   or   -log sigmoid(delta - b r)       b r: reward of an answer

delta is the mean reward, without gradient. The paper takes it over all steps so far; an objective
keeps no state, so here it is the batch's. `losses` takes any.
"""

import jax
import jax.numpy as jnp

from ftjax.core.mean import Mean
from ftjax.core.typed import Positive
from ftjax.objectives.losses import sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(beta=0.3)
# delta is one number a microbatch: the mean over its rows.
SPEC = Spec(data="unpaired", reference=True, couples_rows=True, hyper=("beta",))


def make(*, beta: Positive = 0.1):
    """Make the objective; `beta` scales the rewards."""

    def objective(policy, reference, batch, key):
        weight_BS, good_BS, batch = batch["examples"], batch["label"], sequence.take(batch, 0)
        own = sequence.answers(policy.logps(batch, key), batch)
        base = sequence.answers(reference.logps(batch), batch)
        reward_BS = beta * (own.logp - jax.lax.stop_gradient(base.logp))
        delta = jax.lax.stop_gradient(Mean.of(reward_BS, weight_BS).value())
        reward = lambda where: Mean.of(reward_BS, weight_BS * where)
        return {
            "loss": Mean.of(losses(reward_BS, good_BS, delta), weight_BS),
            "reward/good": reward(good_BS),
            "reward/bad": reward(1 - good_BS),
        }

    return objective


def losses(reward, good, delta) -> jax.Array:
    """Classify rewards as above (good = 1) or below delta."""
    return -jax.nn.log_sigmoid(jnp.where(good > 0, reward - delta, delta - reward))
