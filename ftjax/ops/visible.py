"""What queries of attention may see, as positions and segments: no [T,S] array for long rows.

    visible = visible_keys(positions_BT, segments_BT, window=4096)
    visible.mask()                   [B,T,S]: the definition, for plain forms and short rows

Of rows that devices share, queries are a part and keys a whole row: positions and segments of that
row are then beside.

A query sees the keys of its own segment that are not later and, with a window, are among the last
`window` positions. Along a row the positions of a segment rise by one, and segments do not mix: so
kernels may read windows and causality off the places in the row, and segments off their numbers.
Virtual tokens come before: every segment sees them, at the first positions.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

EVERY = -1  # the segment of keys that queries of all segments see
# Tokens of a row whose mask is made once a pass and not once a layer: at most 1 MiB.
SHORT = 1024


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["positions_BT", "segments_BT", "mask_BTS", "row"],
    meta_fields=["before", "window"],
)
@dataclasses.dataclass(frozen=True)
class Visible:
    """Which keys the queries of rows see; keys are `before` virtual tokens, then the row's own."""

    positions_BT: jax.Array  # in the row with its virtual tokens: they start at `before`
    segments_BT: jax.Array
    mask_BTS: jax.Array | None  # of short rows
    before: int
    window: int | None
    # Positions and segments [B,S] of the row that queries are a part of, without virtual tokens.
    row: tuple[jax.Array, jax.Array] | None = None

    def keys(self) -> tuple[jax.Array, jax.Array]:
        """Return positions and segments of the keys, both [B,S]."""
        positions, segments = self.row or (self.positions_BT, self.segments_BT)
        if not self.before:
            return positions, segments
        rows = (len(positions), self.before)
        first = jnp.broadcast_to(jnp.arange(self.before), rows)
        every = jnp.full(rows, EVERY, segments.dtype)
        join = lambda a, b: jnp.concatenate([a.astype(b.dtype), b], axis=1)
        return join(first, positions), join(every, segments)

    def mask(self) -> jax.Array:
        """Return which keys a query sees, [B,T,S] bool."""
        if self.mask_BTS is not None:
            return self.mask_BTS
        return causal_mask((self.positions_BT, self.segments_BT), self.keys(), window=self.window)


def visible_keys(
    positions_BT, segments_BT, *, before: int = 0, window: int | None = None
) -> Visible:
    """Describe rows, with `before` virtual tokens ahead of each."""
    # NumPy's integers are of 64 bits, which the type of the keys is not to be.
    positions_BT, segments_BT = map(jnp.asarray, (positions_BT, segments_BT))
    found = Visible(positions_BT + before, segments_BT, None, before, window)
    if positions_BT.shape[1] > SHORT:
        return found
    return dataclasses.replace(found, mask_BTS=found.mask())


def causal_mask(query, key, *, window: int | None = None) -> jax.Array:
    """Return which keys a query may see: `mask_BTS`, from positions, segments and a sliding window.

    `query` and `key` are (positions [B,T], segments [B,T]) pairs. A query sees keys of its own
    segment, or of EVERY, that are not later, and with a window only the last `window` positions.
    """
    (q_pos, q_seg), (k_pos, k_seg) = query, key
    same = (q_seg[:, :, None] == k_seg[:, None, :]) | (k_seg == EVERY)[:, None, :]
    mask = (q_pos[:, :, None] >= k_pos[:, None, :]) & same
    if window is not None:
        mask &= q_pos[:, :, None] - k_pos[:, None, :] < window
    return mask


def past_mask(query, *, slots: int, window: int | None = None) -> jax.Array:
    """Return which cache slots (slot = position) a query may see: those before its row's tokens.

    `query` is as in `causal_mask`; the tokens of a row are one segment, beside padding (0).
    """
    positions_BT, segments_BT = query
    slot_BS = jnp.broadcast_to(jnp.arange(slots), (positions_BT.shape[0], slots))
    mask = causal_mask(query, (slot_BS, jnp.ones_like(slot_BS)), window=window)
    first_B = jnp.where(segments_BT > 0, positions_BT, slots).min(axis=1)
    return mask & (slot_BS < first_B[:, None])[:, None]
