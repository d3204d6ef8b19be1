"""Sharpness-aware minimisation (arXiv:2010.01412): the gradient from uphill, around any optimizer.

    g = gradient(w + rho * g(w) / |g(w)|)        |g|: over all that trains

Each step has a second gradient, of the same batch with the same dropout. What the optimizer around
which it stands does with g, it does with that one.
"""

import jax
import optax

from ftjax.core.typed import NonNegative


def make(
    inner: optax.GradientTransformationExtraArgs, *, rho: NonNegative
) -> optax.GradientTransformationExtraArgs:
    """Put it around `inner`; its `update` takes `gradient`: params -> gradients.

    rho: how far uphill, in the norm of all trainables; at 0 it is `inner` itself.
    """
    if rho == 0:
        return inner

    def update(updates, state, params, *, gradient, **extra):
        # 1e-12: where the gradient is zero there is no uphill, and no NaN.
        length = rho / (optax.tree.norm(updates) + 1e-12)
        up = jax.tree.map(lambda w, g: (w + length * g).astype(w.dtype), params, updates)
        return inner.update(gradient(up), state, params, gradient=gradient, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)
