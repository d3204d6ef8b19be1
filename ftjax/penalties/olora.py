"""O-LoRA's penalty (arXiv:2310.14152): a new task's subspace is orthogonal to those of past ones.

    weight * sum over all sites of |a0^T a|^2          a0: the frozen factors of the past

With `adapter.past`, which keeps past adapters beside a new LoRA: `adapters.multi.frozen_adapters`.
"""

import jax.numpy as jnp

from ftjax.core import tree
from ftjax.core.typed import NonNegative
from ftjax.ops import products
from ftjax.penalties.lib.penalty import Penalty

EXAMPLE = dict(weight=0.5)


def make(*, weight: NonNegative) -> Penalty:
    """Make the penalty on every adapter that has a, a0 and a scale.

    Raises:
      ValueError: there is none, when it is computed.
    """

    def value(params, arrays):
        del arrays
        arrays, overlaps = tree.paths(params["adapters"]), []
        for path in (path.removesuffix("/a0") for path in arrays if path.endswith("/a0")):
            lead = arrays[f"{path}/scale"].shape  # the axis of the layers, where there is one
            past, own = (
                x.reshape(*lead, -1, x.shape[-1])
                for x in (arrays[f"{path}/a0"], arrays[f"{path}/a"])
            )
            overlaps.append(jnp.square(jnp.matmul(past.mT, own, precision=products.HIGHEST)).sum())
        if not overlaps:
            raise ValueError(
                "penalties: got olora and no adapter with a and a0; expected adapter.past, the "
                "adapters of past tasks; drop the penalty"
            )
        return weight * sum(overlaps)

    return Penalty(value)
