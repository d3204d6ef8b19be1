"""A reward model from rankings of k answers: a scalar head that puts them in the same order.

    s = <head/reward, x at the last token>          loss: one of `orders`, by default Plackett-Luce

P runs over the answers, the best first; examples of fewer answers leave the last ones empty.
"""

from ftjax.core import config as conf
from ftjax.core.mean import Mean
from ftjax.objectives.losses import ranking, sequence
from ftjax.objectives.losses.spec import Spec

EXAMPLE = dict(loss="all_pairs")
SPEC = Spec(data="ranking", heads=("reward",))


def make(*, loss: str = "plackett_luce"):
    """Make the objective; `loss` is plackett_luce, all_pairs or the dotted path of one's own."""
    found = conf.function(loss, ranking, where="objective.loss")

    def objective(policy, reference, batch, key):
        del reference
        scores_BPS = sequence.at_ends(policy.scores(batch, key), batch)
        return ranked(found, scores_BPS, batch)

    return objective


def ranked(loss, scores_BPS, batch) -> dict:
    """Apply a loss of `orders`; the accuracy is how often the best answer is put first."""
    there = (sequence.sums(sequence.inside(batch), batch) > 0).astype(scores_BPS.dtype)
    weight_BS = batch["examples"]
    best = is_best_first(scores_BPS, there)
    found = {"reward/accuracy": Mean.of(best, weight_BS)}
    return {"loss": Mean.of(loss(scores_BPS, there), weight_BS)} | found


def is_best_first(scores_BPS, there):
    """Return whether the first answer has the highest score."""
    # An answer that is not there must not be the best of the rest.
    rest = (scores_BPS * there + ranking.LOW * (1 - there))[:, 1:].max(1)
    return scores_BPS[:, 0] > rest
