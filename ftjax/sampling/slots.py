"""Slots that a host feeds while they run: rows begin, go on and end beside each other, at any time.

    slots = make(model, count=16, length=512, stop_ids=(2,))
    state = slots.empty()
    rows = slots.read(params, prompts_GS, start)                   # prompts, while others go on
    state = slots.begin(state, rows, slot_G)                       # up to G rows begin
    state, turn = slots.advance(params, state, keep_r, 8, 17)      # open rows: up to 8 tokens

`generation.make` knows all its prompts when it begins; here they come between two turns. A row's
text is the same: its key is fold_in(key(seed), number), and token t is drawn with fold_in(it, t).
There is one program for each G and each number of rows that go on, whatever the lengths: prompts
are read in chunks of one size, behind each other, into the `length` places that a row's cache has.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.sampling import generation, sampler

CHUNK = 64  # tokens of a prompt that are read at a time: enough to keep matmuls busy
TURN = 32  # tokens of a row in a turn at most: a turn's start costs about what a small step does
ALTERNATIVES = 20  # the likeliest tokens that a row can ask for; what the OpenAI API allows


class Start(NamedTuple):
    """G rows that are to begin."""

    length_G: np.ndarray  # int32, tokens of the prompt
    limit_G: np.ndarray  # int32, new tokens at most
    seed_G: np.ndarray  # int32
    number_G: np.ndarray  # int32, of the row under its seed
    temperature_G: np.ndarray  # float32, 0 is greedy
    top_p_G: np.ndarray  # float32, 1 cuts nothing
    alternatives_G: np.ndarray  # bool, whether the likeliest tokens are wanted
    member_G: np.ndarray  # int32, which of several adapters


class State(NamedTuple):
    """R rows at work."""

    last_R: jax.Array  # int32, the token to read next
    at_R: jax.Array  # int32, its position
    count_R: jax.Array  # int32, tokens generated
    left_R: jax.Array  # int32, tokens to generate
    key_R2: jax.Array  # uint32, the data of the row's key
    temperature_R: jax.Array
    top_p_R: jax.Array
    alternatives_R: jax.Array
    member_R: jax.Array
    open_R: jax.Array  # bool
    cache: Any


class Turn(NamedTuple):
    """What rows (here R) have generated in a turn; N = TURN."""

    tokens_RN: jax.Array  # int32
    logps_RN: jax.Array  # float32, under the model at temperature 1
    ids_RNK: jax.Array  # int32, the likeliest tokens, the best first; 0 where nobody wants them
    best_RNK: jax.Array  # float32, their log-probabilities
    count_R: jax.Array  # int32, tokens of this turn
    open_R: jax.Array  # bool, rows that have not ended


class Slots(NamedTuple):
    """The programs; see `make`."""

    empty: Callable
    read: Callable
    begin: Callable
    advance: Callable
    width: int  # of the prompts [G, width]


class _Plan(NamedTuple):
    model: Any
    count: int
    length: int
    stop_ids: tuple[int, ...]
    of_rows: Callable
    cache_dtype: Any

    def cache(self, rows: int):
        return self.model.init_cache(batch=rows, length=self.length, dtype=self.cache_dtype)


def make(
    model, *, count: int, length: int, stop_ids: Sequence[int] = (),
    of_rows: Callable = lambda params, member_B: params, cache_dtype=None, out_shardings=None,
) -> Slots:  # fmt: skip
    """Make the programs over `count` slots.

    Args:
      model: the handle.
      count: R.
      length: S, positions of a row: its prompt and what follows.
      stop_ids: a row ends after any of these.
      of_rows: makes the params of a batch whose rows use these members.
      cache_dtype: of keys and values, such as "int8"; the model's own when not given.
      out_shardings: where states and turns lie on a mesh.

    `empty()` returns a State of closed rows. `read(params, prompts_GS, start)` returns one of G
    open rows, prompts being filled up to `width` tokens; it needs nothing of the slots, so that it
    can run beside `advance`. `begin(state, rows, slot_G)` puts these rows into slots; those of a
    slot that does not exist are dropped. `advance(params, state, keep_r, steps, due)` is about the
    first r slots, those behind being closed: a turn costs what r rows cost. It closes rows that are
    not to be kept, and decodes `steps` tokens of the open ones, at most TURN; it ends early when
    `due` of the r are free. The two last take the state's place.
    """
    plan = _Plan(model, count, length, tuple(stop_ids), of_rows, cache_dtype)
    compiled = functools.partial(jax.jit, out_shardings=out_shardings)
    in_place = functools.partial(compiled, donate_argnames="state")
    return Slots(
        compiled(functools.partial(_empty, plan)), compiled(functools.partial(_read, plan)),
        in_place(_begin), in_place(functools.partial(_advance, plan)),
        width=-(-length // CHUNK) * CHUNK,
    )  # fmt: skip


def _empty(plan: _Plan) -> State:
    zeros = jnp.zeros(plan.count, jnp.int32)
    reals, never, keys = zeros.astype(jnp.float32), zeros > 0, _keys(zeros, zeros)
    cache = plan.cache(plan.count)
    return State(zeros, zeros, zeros, zeros, keys, reals, reals, never, zeros, never, cache)


def _keys(seed_B, number_B):
    key = lambda seed, number: jax.random.fold_in(jax.random.key(seed), number)
    return jax.random.key_data(jax.vmap(key)(seed_B, number_B))


def _read(plan: _Plan, params, prompts_GS, start: Start) -> State:
    cache = _cache_of(plan, plan.of_rows(params, start.member_G), prompts_GS, start.length_G)
    before_G = start.length_G - 1  # `_advance` reads the last token of a prompt
    last_G = jnp.take_along_axis(prompts_GS, before_G[:, None], axis=1)[:, 0]
    return State(
        last_G, before_G, jnp.zeros_like(before_G), start.limit_G,
        _keys(start.seed_G, start.number_G), start.temperature_G, start.top_p_G,
        start.alternatives_G, start.member_G, start.length_G > 0, cache,
    )  # fmt: skip


def _begin(state: State, rows: State, slot_G) -> State:
    put = lambda old, x: old.at[slot_G].set(x, mode="drop")
    found = jax.tree.map(put, state._replace(cache=None), rows._replace(cache=None))
    put = lambda old, x: old.at[:, slot_G].set(x, mode="drop")  # a cache is [L, R, ...]
    return found._replace(cache=jax.tree.map(put, state.cache, rows.cache))


def _cache_of(plan: _Plan, params, prompts_GS, length_G):
    """Read all of the prompts but their last tokens, and return their cache."""
    G, before_G = prompts_GS.shape[0], length_G - 1
    # Nothing is in the cache yet: the first chunk reads and fills it as `generation` does.
    first_GT = prompts_GS[:, : min(CHUNK, plan.length)]
    _, cache = generation.read_prompts(plan.model, params, first_GT, before_G, plan.cache(G))

    def read(i, cache):
        tokens = jax.lax.dynamic_slice_in_dim(prompts_GS, i * CHUNK, CHUNK, axis=1)
        places = jnp.broadcast_to(i * CHUNK + jnp.arange(CHUNK), (G, CHUNK))
        _, cache = plan.model.hidden(
            params["model"], tokens,
            # Positions that a model does not have would give NaN, which no mask keeps out.
            positions_BT=jnp.minimum(places, plan.length - 1),
            segments_BT=(places < before_G[:, None]).astype(jnp.int32),
            adapters=params.get("adapters"), cache=cache,
        )  # fmt: skip
        return cache

    chunks = (before_G.max() + CHUNK - 1) // CHUNK
    return jax.lax.fori_loop(1, chunks, read, cache)


def _advance(plan: _Plan, params, state: State, keep_r, steps, due) -> tuple[State, Turn]:
    r = keep_r.shape[0]
    own = _first(state, r)
    params = plan.of_rows(params, own.member_R)
    best = min(ALTERNATIVES, plan.model.config.vocab_size)
    zeros = lambda *shape, kind=jnp.int32: jnp.zeros((r, *shape), kind)
    turn = Turn(
        zeros(TURN), zeros(TURN, kind=jnp.float32), zeros(TURN, best),
        zeros(TURN, best, kind=jnp.float32), zeros(), own.open_R & keep_r,
    )  # fmt: skip

    def more(carry):
        done, _, turn = carry
        return (done < steps) & turn.open_R.any() & ((~turn.open_R).sum() < due)

    def step(carry):
        done, own, turn = carry
        return done + 1, *_step(plan, params, own._replace(open_R=turn.open_R), turn)

    steps = jnp.minimum(steps, TURN)
    _, own, turn = jax.lax.while_loop(more, step, (jnp.int32(0), own, turn))
    return _with_first(state, own._replace(open_R=turn.open_R), r), turn


def _first(state: State, r: int) -> State:
    """Cut out the first r rows, but of the cache, of which these rows take the first r."""
    rows = jax.tree.map(lambda x: x[:r], state._replace(cache=None))
    return rows._replace(cache=state.cache)


def _with_first(state: State, own: State, r: int) -> State:
    put = lambda old, x: old.at[:r].set(x)
    rows = jax.tree.map(put, state._replace(cache=None), own._replace(cache=None))
    return rows._replace(cache=own.cache)


def _step(plan: _Plan, params, state: State, turn: Turn) -> tuple[State, Turn]:
    """Read every open row's last token and choose the next."""
    open_R, best = state.open_R, turn.ids_RNK.shape[-1]
    logits_RV, cache = generation.decode(
        plan.model, params, state.last_R, state.at_R, open_R, state.cache
    )
    keys_R = jax.random.wrap_key_data(state.key_R2)
    token_R, logps_RV = sampler.sample_rows(
        logits_RV, jax.vmap(jax.random.fold_in)(keys_R, state.count_R),
        temperature_B=state.temperature_R, top_p_B=state.top_p_R,
    )  # fmt: skip
    logp_R = jnp.take_along_axis(logps_RV, token_R[:, None], axis=1)[:, 0]
    rows = open_R.shape[0]
    row_R = jnp.where(open_R, jnp.arange(rows), rows)  # out of range: not written
    put = lambda old, x: old.at[row_R, turn.count_R].set(x, mode="drop")

    def likeliest():
        logps, ids = jax.lax.top_k(logps_RV, best)
        return put(turn.ids_RNK, ids.astype(jnp.int32)), put(turn.best_RNK, logps)

    wanted = (open_R & state.alternatives_R).any()
    ids, logps = jax.lax.cond(wanted, likeliest, lambda: (turn.ids_RNK, turn.best_RNK))
    ended_R = jnp.isin(token_R, jnp.asarray(plan.stop_ids, jnp.int32)) | (state.left_R <= 1)
    turn = Turn(
        put(turn.tokens_RN, token_R), put(turn.logps_RN, logp_R), ids, logps,
        turn.count_R + open_R, open_R & ~ended_R,
    )  # fmt: skip
    state = state._replace(
        last_R=token_R, at_R=state.at_R + 1, count_R=state.count_R + 1, left_R=state.left_R - 1,
        cache=cache,
    )  # fmt: skip
    return state, turn
