"""A-GEM (arXiv:1812.00420): steps that would raise the loss on old data lose what does.

    g <- g - weight * min(0, g . r) / |r|^2 * r        r: the gradient of an anchor's term

With weight 1, as in the paper, the step that is left is at right angles to r wherever it pointed
uphill; where it did not, nothing changes. Several anchors act one after the other.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

TINY = 1e-30  # of |r|^2: an anchor without a gradient takes nothing away


def make(
    inner: optax.GradientTransformationExtraArgs, weights: Mapping[str, float]
) -> optax.GradientTransformationExtraArgs:
    """Put it around `inner`; its `update` takes `anchors`: label -> (params -> gradients).

    weights: of the anchors that steps are projected against; with none it is `inner` itself.
    """
    if not weights:
        return inner

    def update(updates, state, params, *, anchors, **extra):
        for label, weight in weights.items():
            updates = project(updates, anchors[label](params), weight=weight)
        return inner.update(updates, state, params, anchors=anchors, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def project(gradient, other, *, weight: float = 1.0):
    """Take `weight` times the part of a gradient that is against `other` out of it."""
    share = jnp.minimum(_dot(gradient, other), 0) / jnp.maximum(_dot(other, other), TINY)
    return jax.tree.map(lambda g, r: g - (weight * share * r).astype(g.dtype), gradient, other)


def _dot(one, other) -> jax.Array:
    # A sum of products and not `vdot`, which some devices multiply in a lower precision.
    product = lambda x, y: (x.astype(jnp.float32) * y.astype(jnp.float32)).sum()
    return sum(jax.tree.leaves(jax.tree.map(product, one, other)))
