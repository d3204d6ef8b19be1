"""How far a model's next-token distributions moved from the base's, over the full vocabulary.

    p0 the base's, p the tuned model's                              per token
    kl_forward      KL(p0 | p) = sum_v p0 (ln p0 - ln p)            nats, down
    kl_reverse      KL(p | p0) = sum_v p (ln p - ln p0)             nats, down
    ce_to_base      -sum_v p0 ln p = H(p0) + KL(p0 | p)             nats, down    arXiv:2401.05605
    tv              1/2 sum_v |p0 - p|                              [0, 1], down
    js              KL(p0 | m)/2 + KL(p | m)/2, m = (p0 + p)/2      nats, [0, ln 2], down
    top1_agreement  [argmax p0 = argmax p]                          share, up

Forward is the direction in which the base is the reference: it weighs what the base would say, and
is large where the tuned model rules that out (arXiv:2509.04259 predicts forgetting from it).
"""

import jax
import jax.numpy as jnp

from ftjax.ops import divergence, loss

NAMES = ("kl_forward", "kl_reverse", "ce_to_base", "tv", "js", "top1_agreement")


def measures(base, tuned) -> jax.Array:
    """Compute all of `NAMES`, [..., 6], of logits [..., V]; the base's come first."""
    p0, p = jax.nn.log_softmax(base), jax.nn.log_softmax(tuned)
    forward = divergence.kl(p0, p)
    found = (
        forward,
        divergence.kl(p, p0),
        divergence.entropy(base) + forward,
        jnp.abs(jnp.exp(p0) - jnp.exp(p)).sum(-1) / 2,
        divergence.jsd(tuned, base, beta=0.5),
        (base.argmax(-1) == tuned.argmax(-1)).astype(forward.dtype),
    )
    return jnp.stack(found, -1)


def along(base: tuple, tuned: tuple, *, chunk: int) -> jax.Array:
    """Compute `measures` of two models' tokens, [B, T, 6], without an array [B, T, V].

    Each model is (hidden states [B,T,D], output embedding [V,D], cap of the logits or None), as
    `ops.loss.along` takes them; `chunk` positions at a time.
    """
    return loss.along(measures, base, tuned, chunk=chunk)
