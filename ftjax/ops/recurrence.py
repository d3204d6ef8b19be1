"""Linear recurrences over the tokens of a row: gated delta rule, state-space duality, convolution.

    S_t = exp(g_t) S_{t-1} + k_t x_t^T        o_t = S_t^T q_t

Without `beta`, x_t = v_t: the state space of Mamba 2 (arXiv:2405.21060). With it, the gated delta
rule (arXiv:2412.06464): what the decayed state already answers for k_t is taken off before v_t is
written, x_t = beta_t (v_t - exp(g_t) S_{t-1}^T k_t).

Rows run in chunks: inside a chunk all is products of matrices, from chunk to chunk goes the state.
A state never crosses from one document of a packed row to the next, and padding leaves it as it is.
All is in float32: states add up over thousands of tokens.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Errors of a state add up over the row: never the shorter products of accelerators.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
CHUNK = 64  # tokens; products of this size fill matrix units, and the inverse below stays cheap


class Flow(NamedTuple):
    """Where the documents of a row begin, and which of its tokens are real; [B,T] each."""

    start: jax.Array  # bool: the first token of a document
    since: jax.Array  # int32: tokens since its document, or what a cache holds of it, went on here
    fresh: jax.Array  # bool: its document began in this row
    real: jax.Array  # bool


def flow(segments_BT: jax.Array, *, continues: bool) -> Flow:
    """Find the documents of packed rows. `continues`: the first one of a row began before it."""
    real = segments_BT > 0
    first = segments_BT[:, :1] if continues else jnp.zeros_like(segments_BT[:, :1])
    before = jnp.concatenate([first, segments_BT[:, :-1]], axis=1)
    start = real & (segments_BT != before)
    at = jnp.arange(segments_BT.shape[1])
    latest = jax.lax.cummax(jnp.where(start, at, -1), axis=1)
    return Flow(start, at - jnp.maximum(latest, 0), latest >= 0, real)


# -- convolution -----------------------------------------------------------------------------------


def convolve(x_BTQ, w_QW, flow: Flow, past_BJQ=None, start_BJQ=None) -> tuple[jax.Array, jax.Array]:
    """Sum the last W inputs of each channel, weighted: [B,T,Q], and the last W - 1 inputs of rows.

    Args:
      x_BTQ: inputs, zero at padding. w_QW: weights, the one of the token itself last.
      past_BJQ: the J = W - 1 inputs before the row; zeros when None.
      start_BJQ: those before every document that begins in it, of B or 1 rows; likewise.
    """
    width, total = w_QW.shape[1], 0
    for back in range(width):
        inside = (flow.since >= back)[..., None]
        value = jnp.pad(x_BTQ, ((0, 0), (back, 0), (0, 0)))[:, : x_BTQ.shape[1]]
        outside = jnp.zeros_like(value)
        place = jnp.clip(width - 1 + flow.since - back, 0, width - 2)[..., None]
        for states, whose in ((past_BJQ, ~flow.fresh), (start_BJQ, flow.fresh)):
            if states is not None:
                own = jnp.broadcast_to(states, (x_BTQ.shape[0], *states.shape[1:]))
                own = jnp.take_along_axis(own.astype(value.dtype), place, axis=1)
                outside = jnp.where(whose[..., None], own, outside)
        total += jnp.where(inside, value, outside) * w_QW[:, width - 1 - back].astype(value.dtype)
    return total, _last_inputs(x_BTQ, width - 1, flow, past_BJQ, start_BJQ)


def _last_inputs(x_BTQ, count: int, flow: Flow, past_BJQ, start_BJQ):
    """Keep the last inputs of rows of one document, right-padded, with those before it."""
    before = past_BJQ if past_BJQ is not None else start_BJQ
    empty = jnp.zeros((x_BTQ.shape[0], count, x_BTQ.shape[2]), x_BTQ.dtype)
    before = empty if before is None else jnp.broadcast_to(before, empty.shape).astype(x_BTQ.dtype)
    real_B = flow.real.sum(1)
    index_BJ1 = (real_B[:, None] + jnp.arange(count))[..., None]
    return jnp.take_along_axis(jnp.concatenate([before, x_BTQ], axis=1), index_BJ1, axis=1)


# -- states ----------------------------------------------------------------------------------------


class _Chunk(NamedTuple):
    """What the tokens of chunks do; [n,B,Y,C,...] each."""

    carried: jax.Array  # decayed queries of tokens that read the state that comes in; else 0
    begun: jax.Array  # ... of those that read the state at the start of their document; else 0
    attention: jax.Array  # [n,B,Y,C,C], queries on the chunk's own keys
    values: jax.Array
    w_carried: jax.Array | None  # the corrections of the delta rule, by these two states
    w_begun: jax.Array | None
    k_end: jax.Array  # keys decayed to the end of the chunk, of the last document's tokens
    end: jax.Array  # [n,B,Y] decay of the state that comes in to the end; 0 if its document ended
    end_begun: jax.Array  # [n,B,Y] likewise, of a start's state


def scan(
    q_BTYG, k_BTYG, v_BTYP, g_BTY, flow: Flow, *, beta_BTY=None, state_BYGP=None, start_BYGP=None
) -> tuple[jax.Array, jax.Array]:
    """Run the recurrence: outputs [B,T,Y,P], and the state [B,Y,G,P] after the last real token.

    Args:
      q, k, v: of Y heads. g_BTY: logarithms of the decays, at most 0.
      beta_BTY: how much of its key a token overwrites: the delta rule; plain sums when None.
      state_BYGP: the state before the row; zeros when None.
      start_BYGP: the one before every document that begins in it, of B or 1 rows; likewise.
    """
    B, T, Y, P = v_BTYP.shape
    size = min(CHUNK, T)
    # A state sums over the whole row, and decays multiply along it: bfloat16 would drift.
    chunks = lambda x: _chunks(x.astype(jnp.float32), size)
    real = flow.real[..., None].astype(jnp.float32)  # padding leaves the state as it is
    arrays = [chunks(x) for x in (q_BTYG, k_BTYG * real[..., None], v_BTYP * real[..., None])]
    rates = [chunks(x * real) for x in ((g_BTY,) if beta_BTY is None else (g_BTY, beta_BTY))]
    start = _chunks(flow.start[..., None], size)
    parts = _prepare(*arrays, *rates, *([None] if beta_BTY is None else []), start)
    shape = (B, Y, q_BTYG.shape[-1], P)
    zeros = jnp.zeros(shape, jnp.float32)
    state = zeros if state_BYGP is None else state_BYGP.astype(jnp.float32)
    begin = None if start_BYGP is None else jnp.broadcast_to(start_BYGP, shape).astype(jnp.float32)

    def step(state, part: _Chunk):
        own = lambda begun: 0 if begin is None else _product(begun, begin)
        read = lambda carried, begun: _product(carried, state) + own(begun)
        values = part.values
        if part.w_carried is not None:
            values = values - read(part.w_carried, part.w_begun)
        out = read(part.carried, part.begun) + _product(part.attention, values)
        state = part.end[..., None, None] * state + _product(part.k_end.swapaxes(-1, -2), values)
        if begin is not None:
            state = state + part.end_begun[..., None, None] * begin
        return state, out

    state, out_nBYCP = jax.lax.scan(step, state, parts)
    out = jnp.moveaxis(out_nBYCP, 0, 2).reshape(B, Y, -1, P)[:, :, :T]
    return out.swapaxes(1, 2).astype(v_BTYP.dtype), state


def _chunks(x_BTY, size: int):
    """[B,T,Y,...] -> [n,B,Y,C,...], with zeros behind the last token."""
    fill = [(0, 0)] * x_BTY.ndim
    fill[1] = (0, -x_BTY.shape[1] % size)
    x = jnp.pad(x_BTY, fill)
    x = x.reshape(x.shape[0], -1, size, *x.shape[2:])
    return jnp.moveaxis(jnp.moveaxis(x, 1, 0), 3, 2)


def _prepare(q, k, v, g, beta, start) -> _Chunk:
    """Do what chunks do without the state that comes in."""
    size = g.shape[-1]
    at = jnp.arange(size)
    document = jnp.cumsum(start, -1)  # 0: the one that comes in
    same = (document[..., :, None] == document[..., None, :]) & (at[:, None] >= at)
    # Decays since the document began or went on in this chunk. One sum over the whole chunk and a
    # difference would be as right but for rounding, and let gradients leak from one to the next.
    total = _product(same.astype(jnp.float32), g[..., None])
    since = jnp.exp(total)
    decay = jnp.exp(jnp.where(same, total - total.swapaxes(-1, -2), -jnp.inf))
    comes_in = (document == 0)[..., None]
    split = lambda x: (jnp.where(comes_in, x, 0.0), jnp.where(comes_in, 0.0, x))
    attention = _product(q, k.swapaxes(-1, -2)) * decay
    last = (document == document[..., -1:])[..., None]
    k_end = k * jnp.where(last, decay[..., -1, :, None], 0.0)
    end, end_begun = (x[..., -1, 0] for x in split(since))
    w_carried = w_begun = None
    if beta is not None:
        # (I + A) x = y undoes that tokens correct for those before them in the chunk.
        corrected = _product(k * beta[..., None], k.swapaxes(-1, -2))
        corrected = corrected * jnp.where(at[:, None] > at, decay, 0)
        both = jnp.concatenate([v, k * since], axis=-1) * beta[..., None]
        solved = jax.scipy.linalg.solve_triangular(
            corrected + jnp.eye(size), both, lower=True, unit_diagonal=True
        )
        v, w = solved[..., : v.shape[-1]], solved[..., v.shape[-1] :]
        w_carried, w_begun = split(w)
    return _Chunk(*split(q * since), attention, v, w_carried, w_begun, k_end, end, end_begun)
