"""Attention of rows that devices share: queries stay, keys and values come (arXiv:2407.21783, 3.3).

Each device has a part of every row, as the axis `sequence` of the mesh cuts it. It gathers the keys
and values of whole rows, which grouped heads keep small, and attends from its own queries alone, by
any form that reads positions and segments.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ftjax.core import mesh as meshes
from ftjax.ops import remat
from ftjax.ops.visible import Visible


def attend(form: Callable, q_BTNH, k_BSKH, v_BSKH, sink_N, visible: Visible) -> jax.Array:
    """Run `form(q, k, v, sink, visible)` on every device's part of the queries: [B,T,N,H].

    Keys that are more than the queries, of virtual tokens, stand before them on every device.
    """
    k_BSKH, v_BSKH = for_shards(q_BTNH, k_BSKH), for_shards(q_BTNH, v_BSKH)
    before, rows = visible.before, (visible.positions_BT, visible.segments_BT)

    def part(q, own, first, sink, local, row, mask):
        k, v = (jnp.concatenate([a, gather(b)], axis=1) for a, b in zip(first, own, strict=True))
        positions, segments = local
        seen = dict(positions_BT=positions, segments_BT=segments, mask_BTS=mask, row=row)
        return form(q, k, v, sink, dataclasses.replace(visible, **seen))

    keys = k_BSKH, v_BSKH
    # Kept as parts, where `remat` keeps keys: whole rows of them can come again.
    own = tuple(remat.keep(x[:, before:]) for x in keys)
    first = tuple(x[:, :before] for x in keys)
    arrays = q_BTNH, own, first, sink_N, rows, rows, visible.mask_BTS
    letters = "BTNH", ("BTKH",) * 2, ("BSKH",) * 2, "N", ("BT",) * 2, ("BS",) * 2, "BTS"
    return over_devices(part, arrays, letters)


def over_devices(part: Callable, arrays: tuple, letters: tuple) -> jax.Array:
    """Map a function of one device's parts of arrays, the first [B,T,N,H], as its result is."""
    mesh = meshes.current()

    def place(own, x):
        if isinstance(own, tuple):
            return tuple(map(place, own, x))
        # What has no letters says itself where it lies.
        return x if x is None else meshes.spec(own, x.shape, mesh) if isinstance(own, str) else own

    places = place(letters, arrays)
    # A kernel is one device's program: the compiler cannot cut it as it cuts a product.
    options = dict(axis_names=meshes.free_axes(mesh), check_vma=False)
    return jax.shard_map(part, in_specs=places, out_specs=places[0], **options)(*arrays)


def for_shards(q_BTNH, x_BSKH):
    """Return keys or values whose heads the mesh cuts as it cuts those of their queries.

    Where they are fewer than the devices that share the heads, each takes those of its queries.
    """
    mesh = meshes.current()
    cut = lambda letter, x: meshes.spec(letter, x.shape[2:3], mesh)
    if cut("N", q_BTNH) == cut("K", x_BSKH):
        return x_BSKH
    return jnp.repeat(x_BSKH, q_BTNH.shape[2] // x_BSKH.shape[2], axis=2)


@jax.custom_vjp
def gather(x_BTKH):
    """Join the parts of every row; on one device, in `shard_map`."""
    return jax.lax.all_gather(x_BTKH, meshes.SEQUENCE, axis=1, tiled=True)


def _scatter(_, g):
    # What devices add is float32, see `products`.
    wide, options = g.astype(jnp.float32), dict(scatter_dimension=1, tiled=True)
    return (jax.lax.psum_scatter(wide, meshes.SEQUENCE, **options).astype(g.dtype),)


gather.defvjp(lambda x: (gather(x), None), _scatter)
