"""Forms for a GPU alone: kernels of its vendor; see `plain` for what they compute.

Chosen in `by_platform`, which knows what they are able to do. Not run on a GPU so far: tests hold
the call against the definition with XLA's own implementation in place of the kernel.
"""

import jax

from ftjax.ops.visible import Visible


def attend(
    q_BTNH, k_BSKH, v_BSKH, sink_N, visible: Visible, scale: float, cap: float | None, *,
    implementation: str = "cudnn",
):  # fmt: skip
    """Compute attention by cuDNN, which neither caps scores nor knows a sink.

    It reads segments and windows as a mask: [B,T,S] numbers, of rows up to `by_platform.MASKED`.
    """
    del sink_N, cap
    mask_B1TS = visible.mask()[:, None]
    return jax.nn.dot_product_attention(
        q_BTNH, k_BSKH, v_BSKH, mask=mask_B1TS, scale=scale, implementation=implementation
    )
