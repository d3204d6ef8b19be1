"""An outcome reward model: a scalar head that tells good answers from bad ones.

    loss = -log sigmoid(s) for a good answer, -log sigmoid(-s) for a bad one

A verifier (arXiv:2110.14168): sigmoid(s) is the probability that an answer is right, from rows of
single answers with labels, such as sums whose results were checked. The score is read at the last
token: s = <head/reward, x>. As a reward it is used like that of `reward`.
"""

import jax

from ftjax.core.mean import Mean
from ftjax.objectives.losses import sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict()
SPEC = Spec(data="unpaired", heads=("reward",))


def make():
    """Make the objective."""

    def objective(policy, reference, batch, key):
        del reference
        weight_BS, good_BS = batch["examples"], batch["label"]
        answers = sequence.take(batch, 0)
        scores_BS = sequence.at_ends(policy.scores(answers, key), answers)
        found = {
            "reward/good": Mean.of(scores_BS, weight_BS * good_BS),
            "reward/bad": Mean.of(scores_BS, weight_BS * (1 - good_BS)),
            "reward/accuracy": Mean.of((scores_BS > 0) == (good_BS > 0), weight_BS),
        }
        return {"loss": Mean.of(losses(scores_BS, good_BS), weight_BS)} | found

    return objective


def losses(scores, good) -> jax.Array:
    """Compute the cross-entropy of scores as log-odds of being good."""
    return -jax.nn.log_sigmoid((2 * good - 1) * scores)
