"""How steep a loss is around a model: on old data, how easily it is lost.

    ascent     L(w + rho g / |g|) - L(w), g the gradient: the step of SAM     arXiv:2010.01412
    curvature  the largest eigenvalue of the Hessian, by power iteration

Both are down: flat is better. They depend on the scale of the weights, so that models of one
architecture and one start compare, and others do not.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def ascent(loss: Callable, params, *, radius: float) -> jax.Array:
    """Compute how much one step of length `radius` up the gradient raises the loss; down.

    loss: params -> a scalar. A gradient of 0 gives 0.
    """
    value, g = jax.value_and_grad(loss)(params)
    # The smallest normal number: it changes no gradient but 0, which has no direction.
    size = radius / jnp.maximum(optax.tree.norm(g), jnp.finfo(value.dtype).tiny)
    return loss(jax.tree.map(lambda w, g: (w + size * g).astype(w.dtype), params, g)) - value


def curvature(loss: Callable, params, key: jax.Array, *, iterations: int = 20) -> jax.Array:
    """Compute the Hessian's eigenvalue of the largest magnitude, with its sign; down.

    key: of the direction to start from. iterations: Hessian-vector products, forward over reverse.
    """
    leaves, shape = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    start = [jax.random.normal(k, w.shape, w.dtype) for k, w in zip(keys, leaves, strict=True)]

    def step(carry, _):
        v = _unit(carry)
        product = jax.jvp(jax.grad(loss), (params,), (v,))[1]
        return product, optax.tree.vdot(v, product)

    return jax.lax.scan(step, jax.tree.unflatten(shape, start), None, length=iterations)[1][-1]


def _unit(tree):
    norm = optax.tree.norm(tree)
    return jax.tree.map(lambda x: x / jnp.maximum(norm, jnp.finfo(x.dtype).tiny), tree)
