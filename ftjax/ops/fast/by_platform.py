"""The one place where a form of one backend is chosen: when a program is lowered.

Not by the devices of this process: a program for a TPU slice may be compiled on a host that has
CPUs alone. `jax.lax.platform_dependent` knows what a program is for, and the compiler sees nothing
but the form that was chosen.
"""

import functools
from collections.abc import Callable

import jax

from ftjax.ops.fast import cpu, plain


def _choose(default: Callable, **forms: Callable) -> Callable:
    """Make the function that runs the form of its platform, and `default` on any other."""

    @functools.wraps(default)
    def chosen(*arrays):
        return jax.lax.platform_dependent(*arrays, default=default, **forms)

    return chosen


argmax = _choose(plain.argmax, cpu=cpu.argmax)
grouped_matmul = _choose(plain.grouped_matmul, cpu=cpu.grouped_matmul)
transposed_product = _choose(plain.transposed_product, cpu=cpu.transposed_product)
