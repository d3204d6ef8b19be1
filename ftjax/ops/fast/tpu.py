"""Forms for a TPU alone: its kernels; see `plain` for what they compute.

Chosen in `by_platform`, which knows what they are able to do.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from ftjax.core import mesh as meshes
from ftjax.ops import remat
from ftjax.ops.visible import Visible

BLOCKS = (512, 256, 128)  # of queries and of keys: the largest that divides a row
LANES = BLOCKS[-1]


def attend(
    q_BTNH, k_BSKH, v_BSKH, sink_N, visible: Visible, scale: float, cap: float | None, *,
    interpret: bool = False,
):  # fmt: skip
    """Compute attention by JAX's splash kernel, each device its rows and heads.

    It leaves out blocks that causality or a window hides, and reads segments as it goes. Rows are
    multiples of LANES, without virtual tokens. interpret: run the kernel on another backend.
    """
    kernel = functools.partial(_kernel, window=visible.window, cap=cap, interpret=interpret)
    run = functools.partial(_rows, kernel)
    arrays = (q_BTNH * scale, k_BSKH, v_BSKH, visible.segments_BT, sink_N)
    mesh = meshes.current()
    if mesh is None or mesh.size == 1:
        return run(*arrays)
    letters = ("BTNH", "BTKH", "BTKH", "BT", "N")
    places = [x if x is None else meshes.spec(own, x.shape, mesh)
              for own, x in zip(letters, arrays, strict=True)]  # fmt: skip
    if places[0][2] != places[1][2]:
        # Fewer heads of keys than devices that share the heads: each takes those of its queries.
        arrays = (arrays[0], *(_for_queries(x, q_BTNH) for x in arrays[1:3]), *arrays[3:])
        places[1:3] = [places[0]] * 2
    # A kernel is one device's program: the compiler cannot cut it as it cuts a product.
    run = jax.shard_map(run, in_specs=tuple(places), out_specs=places[0], check_vma=False)
    return run(*arrays)


def _for_queries(x_BSKH, q_BTNH):
    return jnp.repeat(x_BSKH, q_BTNH.shape[2] // x_BSKH.shape[2], axis=2)


def _rows(make, q_BTNH, k_BSKH, v_BSKH, segments_BT, sink_N):
    """Run the kernel over the rows of a device; queries are scaled."""
    kernel = make(*q_BTNH.shape[1:3])

    def one(q_TNH, k_SKH, v_SKH, segments_T):
        q, k, v = (x.swapaxes(0, 1) for x in (q_TNH, k_SKH, v_SKH))
        ids = splash.SegmentIds(q=segments_T, kv=segments_T)
        return kernel(q, k, v, segment_ids=ids, sinks=sink_N).swapaxes(0, 1)

    return jax.vmap(one)(q_BTNH, k_BSKH, v_BSKH, segments_BT)


def _kernel(T: int, heads: int, *, window: int | None, cap: float | None, interpret: bool):
    """Make the kernel for rows of T tokens."""
    own = splash.CausalMask((T, T))
    if window is not None:
        own = splash.LocalMask((T, T), window_size=(window - 1, 0), offset=0)
    size = next(each for each in BLOCKS if T % each == 0)
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return splash.make_splash_mha(
        splash.MultiHeadMask([own] * heads), head_shards=1, q_seq_shards=1,
        block_sizes=splash.BlockSizes(**dict.fromkeys(names, size)),
        attn_logits_soft_cap=cap, residual_checkpoint_name=remat.KERNEL, interpret=interpret,
    )  # fmt: skip
