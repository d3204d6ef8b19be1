"""How a program in bfloat16 is compiled so that another one rounds at the same places.

XLA may leave out a rounding inside a fusion, and fuses a forward pass under a gradient other than
one without. A policy and its reference, or the scores of samples and the step that learns from
them, are the same mathematics in two programs: where they must agree (DPO's first loss is log 2,
the first ratio of a policy to itself 1), both are compiled with these options.

`tests/train/test_rounding.py` holds both on a device and on meshes of eight, in bfloat16, and fails
on every mesh without the options.
"""

from typing import Any

import jax
import jax.numpy as jnp


def compiler_options(dtype: Any, platform: str = "") -> dict[str, Any] | None:
    """Return options of `jax.jit` for programs that compute in `dtype`; None where none matters.

    platform: that the program is compiled for, "" for the one here.
    """
    if jnp.dtype(dtype).itemsize >= 4:  # nothing is rounded between two operations
        return None
    # Keeping float32 inside a fusion is more exact, but each program would keep it elsewhere.
    options: dict[str, Any] = {"xla_allow_excess_precision": False}
    if (platform or jax.default_backend()) == "cpu":
        # Its fused products add in another order than single ones.
        options["xla_cpu_experimental_ynn_fusion_type"] = ""
    return options
