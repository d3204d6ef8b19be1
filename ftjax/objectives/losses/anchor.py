"""Terms on other data than the objective's, which hold a policy to what it knew.

    kl_forward              E sum_v p0 (ln p0 - ln p)   KL(base, policy): cover what it would say
    kl_reverse              E sum_v p (ln p - ln p0)    KL(policy, base)
    kl_forward_off_target   kl_forward of both without the data's next token, normalised anew: all
                            but the loss on the data stays as it was         arXiv:2605.29498
    nll                     E - ln p(y)                 replay as a loss

Means over target tokens, in nats, over the full vocabulary. The base is the run's reference, and
no gradient goes through it. With a temperature T both models' logits are divided by it and the
term is multiplied by T^2, which keeps the size of its gradient (arXiv:1503.02531). kl_forward on
the new task's own rows is learning without forgetting (arXiv:1606.09282).
"""

import functools
from collections.abc import Callable, Mapping

from ftjax.core.mean import Mean
from ftjax.ops import divergence


def _compared(policy, reference, batch, key, *, temperature: float, beta: float) -> Mean:
    distance = functools.partial(divergence.jsd, beta=beta, temperature=temperature)
    return _mean(policy.compare(reference, distance, batch, key), batch, temperature)


def _off_target(policy, reference, batch, key, *, temperature: float) -> Mean:
    distance = functools.partial(divergence.off_target, beta=0, temperature=temperature)
    return _mean(policy.compare(reference, distance, batch, key, targets=True), batch, temperature)


def _mean(found, batch, temperature: float) -> Mean:
    return Mean.of(temperature**2 * found, batch["weights"][..., 1:])


def _nll(policy, reference, batch, key) -> Mean:
    del reference
    return Mean.of(-policy.logps(batch, key), batch["weights"][..., 1:])


# (policy, reference, batch, key[, temperature]) -> Mean
TERMS: Mapping[str, Callable] = {
    "kl_forward": functools.partial(_compared, beta=0),
    "kl_reverse": functools.partial(_compared, beta=1),
    "kl_forward_off_target": _off_target,
    "nll": _nll,
}


def make(name: str, *, temperature: float) -> Callable:
    """Return the term of a name, `(policy, reference, batch, key) -> Mean`."""
    if name == "nll":
        return _nll
    return functools.partial(TERMS[name], temperature=temperature)
