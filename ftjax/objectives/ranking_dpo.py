"""DPO for rankings of k answers: the policy's own rewards put them in the same order.

    s = beta (log pi(y|x) - log pi_ref(y|x))        loss: one of `orders`, by default Plackett-Luce

The appendix of arXiv:2305.18290 has the derivation; two answers give plain DPO.
"""

import jax

from ftjax.core import config as conf
from ftjax.core.typed import Positive
from ftjax.objectives import ranking_reward
from ftjax.objectives.losses import ranking, sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(beta=0.3)
SPEC = Spec(data="ranking", reference=True, hyper=("beta",))


def make(*, beta: Positive = 0.1, loss: str = "plackett_luce"):
    """Make the objective; `loss` is plackett_luce, all_pairs or the dotted path of one's own.

    Raises:
      ValueError: there is no such loss.
    """
    found = conf.function(loss, ranking, where="objective.loss")

    def objective(policy, reference, batch, key):
        own = sequence.answers(policy.logps(batch, key), batch)
        base = jax.lax.stop_gradient(sequence.answers(reference.logps(batch), batch))
        return ranking_reward.ranked(found, beta * (own.logp - base.logp), batch)

    return objective
