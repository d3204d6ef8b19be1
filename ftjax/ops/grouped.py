"""Rows grouped by expert, and matmuls that give every group its own weight: dropless dispatch.

Every token is copied once for each of its k experts, the copies are sorted by expert, and each
expert's rows are padded with zeros to whole blocks, so that all shapes are static:

    groups, places = arrange(expert_X, experts=E)
    y = contract(groups, "EBTD,EDF->EBTF", x, w)     x [rows, D] stands for the letters EBTD

Under a mesh each device sorts the tokens of its own rows of the batch, its `expert` axis sharing
the experts, and the answers are added over that axis: exact on any number of devices. Any expert
may be chosen by all tokens, so a device makes room for all the rows that its `expert` axis shares.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ftjax.core import einsum
from ftjax.core import mesh as meshes
from ftjax.ops import fast, products
from ftjax.ops.moe import Choice

BLOCK = 32  # rows; at most, a smaller power of two where experts have fewer


class Groups(NamedTuple):
    """Sorted rows: how many each expert has, in whole blocks, and the expert of each block J."""

    counts_E: jax.Array
    expert_J: jax.Array


class Places(NamedTuple):
    """Where rows are in sorted order, and back; out of range where there is nothing."""

    of_row: jax.Array
    row_at: jax.Array


def arrange(expert_X: jax.Array, *, experts: int) -> tuple[Groups, Places]:
    """Find a place for every row, sorted by expert.

    Args:
      expert_X: the expert of each row; what is not in [0, experts) gets no place.
    """
    rows = expert_X.shape[0]
    block = _block(rows, experts)
    # Experts of other devices sort last, behind the rows that are served here.
    expert_X = jnp.where((expert_X >= 0) & (expert_X < experts), expert_X, experts)
    counts = jnp.bincount(expert_X, length=experts + 1)[:experts]
    # Whole blocks: a block belongs to one expert, so that one matmul serves it.
    padded = -(-counts // block) * block
    ends = jnp.cumsum(padded)
    # The most that padding can add, whatever the routing: shapes do not depend on data.
    blocks = -(-(rows + experts * (block - 1)) // block)
    # The i-th row in order is the (i - rows of earlier experts)-th of its own.
    shift = ends - padded - (jnp.cumsum(counts) - counts)
    # Stable: rows of an expert keep their order, so that the answers do not depend on the backend's
    # sort.
    order = jnp.argsort(expert_X, stable=True)
    expert = expert_X[order]
    place = jnp.arange(rows) + shift[jnp.minimum(expert, experts - 1)]
    place = jnp.where(expert < experts, place, blocks * block)
    of_row = jnp.zeros_like(order).at[order].set(place)
    # Places that nobody takes point past the rows, where `fill` reads zeros.
    row_at = jnp.full(blocks * block, rows).at[place].set(order, mode="drop")
    of_block = jnp.searchsorted(ends, jnp.arange(blocks) * block, side="right")
    groups = Groups(padded, jnp.minimum(of_block, experts - 1))
    return groups, Places(of_row, row_at)


def _block(rows: int, experts: int) -> int:
    """Choose the largest power of two that is at most BLOCK and the mean rows of an expert."""
    return min(BLOCK, 1 << max(0, (rows // experts).bit_length() - 1))


def contract(groups: Groups, equation: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """Compute `einsum(equation, x, w)` over grouped rows.

    Args:
      equation: shares E alone, such as "EBTD,EDF->EBTF".
      x: [rows, contracted letters]. w: as the equation says.

    Returns:
      [rows, kept letters].
    """
    e = einsum.parse(equation)
    sizes = einsum.sizes(e.w, w.shape)
    order = [e.w.index(c) for c in e.shared + e.contracted + e.kept]
    inside, outside = (einsum.size(letters, sizes) for letters in (e.contracted, e.kept))
    w_EIO = w.transpose(order).reshape(sizes["E"], inside, outside)
    y = fast.grouped_matmul(x.reshape(-1, inside), w_EIO, *groups)
    return y.reshape(-1, *(sizes[c] for c in e.kept))


# -- dropless dispatch -----------------------------------------------------------------------------


def dropless(run: Callable, x_BTD: jax.Array, choice: Choice, weights: Any, letters: Any):
    """Send every token to its experts and add the answers under their gates: [B,T,D].

    Args:
      run: (weights, rows [X,D], contract, part) -> [X,D], where `contract(equation, x, w)` is
        grouped and `part` numbers the device, for what is drawn.
      weights: what `run` needs of arrays. letters: the same tree, of their letters.
    """
    experts = next(
        leaf.shape[axes.index("E")]
        for axes, leaf in zip(jax.tree.leaves(letters), jax.tree.leaves(weights), strict=True)
        if "E" in axes
    )
    local = partial(_local, run, experts=experts)
    mesh = meshes.current()
    if mesh is None or mesh.size == 1:
        return local(x_BTD, *choice, weights, first=0, part=0)
    return _over_mesh(local, mesh, experts, letters)(x_BTD, *choice, weights)


def _local(run, x_BTD, expert_BTk, gate_BTk, weights, *, experts, first, part):
    """Serve the tokens at hand with `experts` experts, of which the first has the number `first`.

    Tokens of other experts get nothing here.
    """
    rows, width, top = expert_BTk.shape
    groups, places = arrange(expert_BTk.reshape(-1) - first, experts=experts)
    # Out-of-range places are rows that another device serves: zeros there, added away by the psum.
    take = lambda x, at: x.at[at].get(mode="fill", fill_value=0)
    x = x_BTD.reshape(rows * width, -1)
    y = run(weights, take(x, places.row_at // top), partial(contract, groups), part)
    y_BTkD = take(y, places.of_row).reshape(rows, width, top, -1)
    # Gates come in float32, which would make the experts' answers float32 too.
    return products.einsum("BTkD,BTk->BTD", y_BTkD, gate_BTk.astype(y.dtype))


def _over_mesh(local, mesh, experts: int, letters):
    """Map `local` over devices: rows of the batch apart, experts apart, the answers added.

    Weights come together over the other axes, as they do for any layer under `fsdp`; `tensor`
    takes a part of every row's tokens, and `sequence` has one.
    """
    shards = mesh.shape["expert"] if experts % mesh.shape["expert"] == 0 else 1
    axis = "expert" if shards > 1 else None
    places = jax.tree.map(lambda own: P(*(axis if c == "E" else None for c in own)), letters)

    def served(x, expert, gate, weights):
        index = jax.lax.axis_index("expert") if axis else 0
        own = dict(experts=experts // shards, first=index * (experts // shards))
        # Not of members: each draws as it would alone.
        devices = tuple(axis for axis in mesh.axis_names if axis != meshes.MEMBER)
        y = local(x, expert, gate, weights, part=jax.lax.axis_index(devices), **own)
        return jax.lax.psum(y, "expert") if axis else y

    def call(x, expert, gate, weights):
        batch = meshes.spec("EB", (mesh.shape["expert"], len(x)), mesh)[1]
        parts = meshes.row_parts(x.shape[1])
        cut = (meshes.SEQUENCE,) * (parts > 1)
        cut += ("tensor",) * (x.shape[1] // parts % mesh.shape["tensor"] == 0)
        place = P(batch, cut or None)
        mapped = jax.shard_map(
            served, in_specs=(place, place, place, places), out_specs=place,
            axis_names=meshes.free_axes(mesh),
            # The psum is over `expert` alone; the check would ask for a proof about the other axes.
            check_vma=False,
        )  # fmt: skip
        return mapped(x, expert, gate, weights)

    return call
