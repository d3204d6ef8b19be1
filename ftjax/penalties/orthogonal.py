"""AdaLoRA's penalty (arXiv:2303.10512): factors like those of a singular value decomposition.

weight * mean over all a, b of |a^T a - 1|, |b b^T - 1|          Frobenius norms, not squared
"""

import jax.numpy as jnp

from ftjax.core import tree
from ftjax.core.typed import NonNegative
from ftjax.ops import products
from ftjax.penalties.lib.penalty import Penalty

EXAMPLE = dict(weight=0.5)


def make(*, weight: NonNegative) -> Penalty:
    """Make the penalty on every adapter that has a, e and b.

    Raises:
      ValueError: there is none, when it is computed.
    """

    def value(params, arrays):
        del arrays
        distances = []
        arrays = tree.paths(params["adapters"])
        for path in (path.removesuffix("/e") for path in arrays if path.endswith("/e")):
            a, e, b = (arrays[f"{path}/{name}"] for name in "aeb")
            a, b = a.reshape(*e.shape[:-1], -1, e.shape[-1]), b.reshape(*e.shape, -1)
            distances += [_distance(a.swapaxes(-1, -2)), _distance(b)]
        if not distances:
            raise ValueError(
                "penalties: got orthogonal and no adapter with a, e and b; expected adapter.name = "
                "'adalora'; drop the penalty"
            )
        return weight * jnp.concatenate(distances).mean()

    return Penalty(value)


def _distance(rows) -> jnp.ndarray:
    """Measure how far the rows of each matrix [..., R, n] are from orthonormal: a flat array."""
    gram = jnp.matmul(rows, rows.mT, precision=products.HIGHEST) - jnp.eye(rows.shape[-2])
    return jnp.sqrt(jnp.square(gram).sum((-1, -2)) + 1e-12).reshape(-1)  # smooth at zero
