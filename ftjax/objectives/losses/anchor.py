"""Terms on other data than the objective's, which hold a policy to what it knew.

    kl_forward   E_old sum_v p0 (ln p0 - ln p)      KL(base, policy): cover what the base would say
    kl_reverse   E_old sum_v p (ln p - ln p0)       KL(policy, base)
    nll          E_old - ln p(y)                    replay as a loss

Means over target tokens, in nats, over the full vocabulary. The base is the run's reference, and
no gradient goes through it.
"""

import functools
from collections.abc import Callable, Mapping

from ftjax.core.mean import Mean
from ftjax.ops import divergence


def _compared(policy, reference, batch, key, *, beta: float) -> Mean:
    distance = functools.partial(divergence.jsd, beta=beta)
    return Mean.of(policy.compare(reference, distance, batch, key), batch["weights"][..., 1:])


def _nll(policy, reference, batch, key) -> Mean:
    del reference
    return Mean.of(-policy.logps(batch, key), batch["weights"][..., 1:])


# (policy, reference, batch, key) -> Mean
TERMS: Mapping[str, Callable] = {
    "kl_forward": functools.partial(_compared, beta=0),
    "kl_reverse": functools.partial(_compared, beta=1),
    "nll": _nll,
}
