"""The one place where a form of one backend is chosen: when a program is lowered.

Not by the devices of this process: a program for a TPU slice may be compiled on a host that has
CPUs alone. `jax.lax.platform_dependent` knows what a program is for, and the compiler sees nothing
but the form that was chosen.
"""

import functools
from collections.abc import Callable

import jax

from ftjax.core import mesh as meshes
from ftjax.ops import context_parallel
from ftjax.ops.fast import cpu, flash, gpu, plain
from ftjax.ops.visible import Visible

LANES = 128  # of a TPU: rows of its attention kernel are multiples


def _choose(default: Callable, **forms: Callable) -> Callable:
    """Make the function that runs the form of its platform, and `default` on any other."""

    @functools.wraps(default)
    def chosen(*arrays):
        return jax.lax.platform_dependent(*arrays, default=default, **forms)

    return chosen


def attend(q_BTNH, k_BSKH, v_BSKH, sink_N, visible: Visible, scale: float, cap: float | None):
    """Run the kernel of the platform where it is able to, and blocks of products elsewhere."""
    arrays, numbers = (q_BTNH, k_BSKH, v_BSKH, sink_N, visible), dict(scale=scale, cap=cap)
    default = functools.partial(flash.attend, **numbers)
    target, parts = meshes.platform(), meshes.row_parts(q_BTNH.shape[1])
    if target == "gpu" and _suits_gpu(*arrays, cap):
        default = functools.partial(gpu.attend, **numbers)
    if parts > 1 and not (target == "tpu" and _suits_tpu(*arrays)):
        return context_parallel.attend(default, *arrays)
    if target not in (None, "tpu") or not _suits_tpu(*arrays):
        return default(*arrays)
    from ftjax.ops.fast import tpu  # kernels are slow to import, and most programs have none

    kernel = functools.partial(tpu.attend, **numbers)
    if target == "tpu":
        return kernel(*arrays)
    return jax.lax.platform_dependent(*arrays, default=default, tpu=kernel)


def _suits_tpu(q_BTNH, k_BSKH, v_BSKH, sink_N, visible: Visible) -> bool:
    """Return whether the kernel multiplies as `products` does, and knows what these rows see."""
    del v_BSKH, sink_N
    # Of float32 it makes one pass in bfloat16; virtual tokens are of no segment that it knows.
    is_low = q_BTNH.dtype.itemsize == 2
    return is_low and not visible.before and q_BTNH.shape[1] == k_BSKH.shape[1] and (
        q_BTNH.shape[1] // meshes.row_parts(q_BTNH.shape[1]) % LANES == 0
    )  # fmt: skip


def _suits_gpu(q_BTNH, k_BSKH, v_BSKH, sink_N, visible: Visible, cap: float | None) -> bool:
    """Return whether cuDNN has a kernel for it."""
    del k_BSKH, visible
    sizes = {q_BTNH.shape[3], v_BSKH.shape[3]}
    plain_heads = len(sizes) == 1 and max(sizes) <= 128 and max(sizes) % 8 == 0
    is_plain = cap is None and sink_N is None and q_BTNH.dtype.itemsize == 2
    return is_plain and plain_heads and meshes.is_nvidia()


argmax = _choose(plain.argmax, cpu=cpu.argmax)
grouped_matmul = _choose(plain.grouped_matmul, cpu=cpu.grouped_matmul)
transposed_product = _choose(plain.transposed_product, cpu=cpu.transposed_product)
