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
SPEC = Spec(data="ranking", reference=True)


def make(*, beta: Positive = 0.1, loss: str = "plackett_luce"):
    """Make the objective; `loss` is plackett_luce, all_pairs or the dotted path of one's own.

    Raises:
      ValueError: beta is not above 0, or there is no such loss.
    """
    if not beta > 0:
        raise ValueError(f"objective.beta: got {beta}; expected a number above 0, such as 0.1")
    found = conf.function(loss, ranking, where="objective.loss")

    def objective(policy, reference, batch, key):
        own = sequence.answers(policy.logps(batch, key), batch)
        base = jax.lax.stop_gradient(sequence.answers(reference.logps(batch), batch))
        return ranking_reward.ranked(found, beta * (own.logp - base.logp), batch)

    return objective
