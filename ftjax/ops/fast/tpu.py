"""Forms for a TPU alone: its kernels; see `plain` for what they compute.

Chosen in `by_platform`, which knows what they are able to do.
"""

import jax
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from ftjax.core import mesh as meshes
from ftjax.ops import context_parallel, remat
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
    options = dict(window=visible.window, cap=cap, interpret=interpret)
    q, segments, mesh = q_BTNH * scale, visible.segments_BT, meshes.current()
    if mesh is None or mesh.size == 1:
        kernel = _kernel(*q.shape[1:3], **options)
        return _rows(q, (k_BSKH, v_BSKH), sink_N, segments, segments, kernel)
    keys = tuple(context_parallel.for_shards(q, x) for x in (k_BSKH, v_BSKH))
    parts, place = meshes.row_parts(q.shape[1]), meshes.spec("BTNH", q.shape, mesh)
    # Only sizes are asked: a mesh of which members are a part already would not say them.
    sizes = jax.sharding.AbstractMesh(tuple(mesh.shape.values()), mesh.axis_names)
    heads = jax.NamedSharding(sizes, place).shard_shape(q.shape)[2]
    kernel = _kernel(q.shape[1], heads, parts=parts, **options)

    def part(q, keys, *rest):
        # Of a row that devices share, each sees which place its queries have by its own kernel.
        return _rows(q, tuple(map(context_parallel.gather, keys)) if parts > 1 else keys, *rest)

    rest = sink_N, segments, segments, kernel
    by_queries = jax.NamedSharding(sizes, jax.P(None, meshes.SEQUENCE if parts > 1 else None))
    letters = "BTNH", ("BTKH",) * 2, "N", "BT", "BS", kernel.manual_sharding_spec(by_queries)
    return context_parallel.over_devices(part, (q, keys, *rest), letters)


def _rows(q_BTNH, keys, sink_N, segments_BT, segments_BS, kernel):
    """Run the kernel over the rows of a device; queries are scaled."""

    def one(q_TNH, k_SKH, v_SKH, segments_T, segments_S):
        q, k, v = (x.swapaxes(0, 1) for x in (q_TNH, k_SKH, v_SKH))
        ids = splash.SegmentIds(q=segments_T, kv=segments_S)
        return kernel(q, k, v, segment_ids=ids, sinks=sink_N).swapaxes(0, 1)

    return jax.vmap(one)(q_BTNH, *keys, segments_BT, segments_BS)


def _kernel(
    T: int, heads: int, *, window: int | None, cap: float | None, interpret: bool, parts: int = 1
):
    """Make the kernel for rows of T tokens, or for parts of them, as many as say how many."""
    own = splash.CausalMask((T, T))
    if window is not None:
        own = splash.LocalMask((T, T), window_size=(window - 1, 0), offset=0)
    size = next(each for each in BLOCKS if T // parts % each == 0)
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return splash.make_splash_mha(
        splash.MultiHeadMask([own] * heads), head_shards=1, q_seq_shards=parts,
        block_sizes=splash.BlockSizes(**dict.fromkeys(names, size)),
        attn_logits_soft_cap=cap, residual_checkpoint_name=remat.KERNEL, interpret=interpret,
    )  # fmt: skip
