"""Text generation: one jitted program that reads a queue of prompts and decodes token by token.

Every prompt is read once; its keys and values are kept, and a slot that starts on one of its
samples copies them. When a row ends its slot takes the next of the queue, until all are done:

    generate = make(model, max_new_tokens=64, stop_ids=(2,), pad_id=0, samples=4, slots=16)
    output = generate(params, prompts_QT, lengths_Q, key)      # [Q * 4] rows, samples together

Prompts are right-padded and slot = position in the cache, so a row never sees padding, neither its
own nor another row's. Adapters apply as they are, unmerged. Token t of a row is drawn with
fold_in(the row's key, t): its text depends on the prompt and its key, never on the batch it is in,
nor on when and where it was started. `make_stream` gives the tokens of one row as they come.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import shapes
from ftjax.sampling import sampler

MIN_LENGTH = 16  # the shortest prompt bucket


class Output(NamedTuple):
    """What was generated, without the prompts; N = max_new_tokens."""

    tokens: jax.Array  # int32 [B, N], pad_id after the end
    lengths: jax.Array  # int32 [B], tokens generated, the stop token among them
    logps: jax.Array  # float32 [B, N], under the model at temperature 1; 0 after the end


class _Loop(NamedTuple):
    """R slots at work on J = Q * samples rows."""

    started: jax.Array  # int32 [], rows begun
    row_R: jax.Array  # int32, the row that a slot writes
    count_R: jax.Array  # int32, tokens it has generated
    last_R: jax.Array  # int32, the token to read next
    open_R: jax.Array  # bool, slots at work
    output: Output
    cache: Any


class _Queue(NamedTuple):
    """What slots are filled from."""

    prompts_QT: jax.Array
    lengths_Q: jax.Array
    keys_J: jax.Array
    cache: Any  # of the prompts, [L, Q, ...], of T slots


def make(
    model, *, max_new_tokens: int, temperature: float = 0.0, top_k: int | None = None,
    top_p: float | None = None, min_p: float | None = None, stop_ids: Sequence[int] = (),
    pad_id: int = 0, samples: int = 1, slots: int | None = None, cache_dtype=None,
    tempered: bool = False, out_shardings=None,
) -> Callable:  # fmt: skip
    """Make `generate(params, prompts_QT, lengths_Q, key) -> Output`.

    Args:
      model: the handle.
      max_new_tokens: N, at least 1.
      temperature, top_k, top_p, min_p, tempered: see `choose`; temperature 0 is greedy.
      stop_ids: a row ends after any of these.
      pad_id: fills the prompts and ended rows.
      samples: rows of every prompt, one after another in the output.
      slots: rows at work at a time; all when not given.
      cache_dtype: of keys and values, such as "int8"; the model's own when not given.
      out_shardings: where the output lies on a mesh.

    `params` is {"model", "adapters"} (adapters None or missing = off). A prompt of length 0 is a
    dummy that generates nothing. `key` is one key, from which prompt i takes fold_in(key, i), or
    [Q] keys; sample s of several takes fold_in(the prompt's, s). One program is compiled per number
    of prompts and bucket of their lengths. Raises ValueError where the positions do not suffice.
    """
    _check_count(max_new_tokens)
    drawing = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    plan = _Plan(
        model, sampler.make(**drawing, tempered=tempered), max_new_tokens, tuple(stop_ids), pad_id,
        samples, slots, cache_dtype,
    )  # fmt: skip
    run = jax.jit(functools.partial(_run, plan), out_shardings=out_shardings)

    def generate(params, prompts_QT, lengths_Q, key) -> Output:
        Q, T = prompts_QT.shape
        pad = np.pad if isinstance(prompts_QT, np.ndarray) else jnp.pad
        fill = ((0, 0), (0, _fit(model, params, T, max_new_tokens) - T))
        prompts_QT = pad(prompts_QT, fill, constant_values=pad_id)
        return run(params, prompts_QT, lengths_Q, _row_keys(key, Q))

    return generate


class _Plan(NamedTuple):
    """What the program is made for."""

    model: Any
    choose: Callable
    new: int
    stop_ids: tuple[int, ...]
    pad_id: int
    samples: int
    slots: int | None
    cache_dtype: Any

    def empty(self, batch: int, length: int):
        return self.model.init_cache(batch=batch, length=length, dtype=self.cache_dtype)


def _run(plan: _Plan, params, prompts_QT, lengths_Q, keys_Q) -> Output:
    # Every token reads all weights: from a copy in the type of the computation.
    params = {**params, "model": plan.model.cast(params["model"])}
    Q, T = prompts_QT.shape
    J = Q * plan.samples
    R = min(plan.slots or J, J)
    keys_J = keys_Q if plan.samples == 1 else _sample_keys(keys_Q, plan.samples)
    cache = _read(plan, params, prompts_QT, lengths_Q, at_once=min(R, Q))
    queue = _Queue(prompts_QT, lengths_Q, keys_J, cache)

    # Two loops, not one with a cond around `_fill`, which would copy the whole cache every token.
    def turn(loop: _Loop) -> _Loop:
        step = functools.partial(_advance, plan, params, queue)
        return jax.lax.while_loop(lambda loop: ~_is_due(loop, J), step, _fill(plan, queue, loop))

    zeros = jnp.zeros(R, jnp.int32)
    tokens, logps = jnp.full((J, plan.new), plan.pad_id), jnp.zeros((J, plan.new), jnp.float32)
    output = Output(tokens.astype(jnp.int32), jnp.zeros(J, jnp.int32), logps)
    loop = _Loop(jnp.int32(0), zeros, zeros, zeros, zeros > 0, output, plan.empty(R, T + plan.new))
    more = lambda loop: (loop.started < J) | loop.open_R.any()
    return jax.lax.while_loop(more, turn, loop).output


def _is_due(loop: _Loop, rows: int):
    """Whether to start rows or, when all have ended, to end.

    A slot may wait for others that end, so that prompts are copied in groups.
    """
    free = (~loop.open_R).sum()
    group = jnp.clip(rows - loop.started, 1, max(1, loop.open_R.shape[0] // 8))
    return ((free >= group) & (loop.started < rows)) | ~loop.open_R.any()


def _read(plan: _Plan, params, prompts_QT, lengths_Q, *, at_once: int):
    """Read all prompts, some at a time, and return their cache."""
    Q, T = prompts_QT.shape
    fill = -Q % at_once
    rows = (jnp.pad(prompts_QT, ((0, fill), (0, 0))), jnp.pad(lengths_Q, (0, fill)))

    def one(rows):
        # The whole length that a slot has, which a rotary embedding may depend on; then T of it.
        # The last token of a prompt is read by `_advance`, and a state must not see it twice.
        tokens, lengths = rows
        before = jnp.maximum(lengths - 1, 0)
        empty = plan.empty(at_once, T + plan.new)
        _, cache = read_prompts(plan.model, params, tokens, before, empty)
        part = jax.eval_shape(lambda: plan.empty(at_once, T))
        return jax.tree.map(lambda x, own: x[tuple(map(slice, own.shape))], cache, part)

    if at_once == Q:
        return one(rows)
    parts = jax.lax.map(one, jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), rows))
    whole = lambda x: x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])  # [C,L,R,..]
    return jax.tree.map(whole, parts)


def _fill(plan: _Plan, queue: _Queue, loop: _Loop) -> _Loop:
    """Start free slots on the next rows of the queue."""
    J = queue.keys_J.shape[0]
    free_R = ~loop.open_R
    next_R = loop.started + jnp.cumsum(free_R) - 1
    take_R = free_R & (next_R < J)
    # Slots that take nothing must index something too; `choose` drops what they find.
    prompt_R = jnp.clip(next_R, 0, J - 1) // plan.samples
    length_R = queue.lengths_Q[prompt_R]
    last_R = queue.prompts_QT[prompt_R, jnp.maximum(length_R - 1, 0)]
    choose = lambda new, old: jnp.where(take_R, new, old)

    def copy(own, store):
        take = take_R.reshape(1, -1, *[1] * (own.ndim - 2))
        span = (slice(None), slice(None), *map(slice, store.shape[2:]))
        return own.at[span].set(jnp.where(take, store[:, prompt_R], own[span]))

    return loop._replace(
        started=loop.started + take_R.sum(), row_R=choose(next_R, loop.row_R),
        count_R=choose(0, loop.count_R), last_R=choose(last_R, loop.last_R),
        open_R=loop.open_R | (take_R & (length_R > 0)),
        cache=jax.tree.map(copy, loop.cache, queue.cache),
    )  # fmt: skip


def _advance(plan: _Plan, params, queue: _Queue, loop: _Loop) -> _Loop:
    """Read every slot's last token (the first time the prompt's) and choose the next."""
    row_R, count_R, open_R = loop.row_R, loop.count_R, loop.open_R
    at_R = queue.lengths_Q[row_R // plan.samples] - 1 + count_R
    logits_RV, cache = decode(plan.model, params, loop.last_R, at_R, open_R, loop.cache)
    token_R, logp_R = plan.choose(logits_RV, _at(queue.keys_J[row_R], count_R))
    tokens, lengths, logps = loop.output
    to_R = jnp.where(open_R, row_R, tokens.shape[0])  # out of range: nothing is written
    output = Output(
        tokens.at[to_R, count_R].set(token_R, mode="drop"),
        lengths.at[to_R].add(1, mode="drop"),
        logps.at[to_R, count_R].set(logp_R, mode="drop"),
    )
    ended_R = jnp.isin(token_R, jnp.asarray(plan.stop_ids, jnp.int32)) | (count_R + 1 >= plan.new)
    return loop._replace(
        count_R=count_R + 1, last_R=token_R, open_R=open_R & ~ended_R, output=output, cache=cache
    )


def make_stream(
    model, *, max_new_tokens: int, temperature: float = 0.0, top_k: int | None = None,
    top_p: float | None = None, min_p: float | None = None, stop_ids: Sequence[int] = (),
    pad_id: int = 0,
) -> Callable:  # fmt: skip
    """Make `stream(params, prompt_ids, key) -> iterator of token ids`, for one row.

    It yields what row 0 of `generate` holds for the same key, each token when it is made, and ends
    before a stop token.
    """
    _check_count(max_new_tokens)
    drawing = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    choose = sampler.make(**drawing)

    @jax.jit
    def first(params, prompt_BT, length_B, key_B):
        width = prompt_BT.shape[1] + max_new_tokens
        logits, cache = prefill(model, params, prompt_BT, length_B, length=width)
        return choose(logits, _at(key_B, jnp.zeros(1, jnp.int32)))[0], cache

    @functools.partial(jax.jit, donate_argnames="cache")  # changed in place, or there are two
    def step(params, token_B, at_B, cache, key_B, t):
        logits, cache = decode(model, params, token_B, at_B, at_B >= 0, cache)
        return choose(logits, _at(key_B, t[None]))[0], cache

    def stream(params, prompt_ids: Sequence[int], key) -> Iterator[int]:
        length, key_B = len(prompt_ids), _row_keys(key, 1)
        width = _fit(model, params, length, max_new_tokens)
        prompt_BT = shapes.pad_rows([prompt_ids], width, fill=pad_id)
        token_B, cache = first(params, prompt_BT, np.int32([length]), key_B)
        for t in range(1, max_new_tokens + 1):
            token = int(token_B[0])
            if token in stop_ids:
                return
            yield token
            if t < max_new_tokens:
                at_B = np.int32([length + t - 1])
                token_B, cache = step(params, token_B, at_B, cache, key_B, np.int32(t))

    return stream


def prefill(model, params, prompts_BT, lengths_B, *, length: int):
    """Read right-padded prompts; returns the logits after each row's last token and the cache."""
    empty = model.init_cache(batch=prompts_BT.shape[0], length=length)
    x_BTD, cache = read_prompts(model, params, prompts_BT, lengths_B, empty)
    last_B = jnp.maximum(lengths_B - 1, 0)
    x_BD = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)[:, 0]
    return model.logits(params["model"], x_BD, adapters=params.get("adapters")), cache


def read_prompts(model, params, prompts_BT, lengths_B, cache):
    """Read right-padded prompts into an empty cache; returns the hidden states and the cache."""
    B, T = prompts_BT.shape
    positions_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    segments_BT = (positions_BT < lengths_B[:, None]).astype(jnp.int32)
    # fresh: prompts attend to themselves alone, and fill their slots as one block.
    return model.hidden(
        params["model"], prompts_BT, positions_BT=positions_BT, segments_BT=segments_BT,
        adapters=params.get("adapters"), cache=cache, fresh=True,
    )  # fmt: skip


def decode(model, params, tokens_B, positions_B, open_B, cache):
    """Read one token per row at its position; rows that are not open write nothing."""
    x_B1D, cache = model.hidden(
        params["model"], tokens_B[:, None], positions_BT=positions_B[:, None],
        segments_BT=open_B[:, None].astype(jnp.int32), adapters=params.get("adapters"), cache=cache,
    )  # fmt: skip
    return model.logits(params["model"], x_B1D[:, 0], adapters=params.get("adapters")), cache


def join(prompts_BT, lengths_B, output: Output) -> tuple[jax.Array, jax.Array]:
    """Put each row's new tokens right behind its prompt: (tokens [B, T+N], lengths [B])."""
    N = output.tokens.shape[1]
    slots_BN = jnp.asarray(lengths_B)[:, None] + jnp.arange(N)
    rows = jnp.arange(slots_BN.shape[0])[:, None]
    wide = jnp.pad(jnp.asarray(prompts_BT), ((0, 0), (0, N)))
    return wide.at[rows, slots_BN].set(output.tokens), lengths_B + output.lengths


def _at(keys_B, t_B):
    return jax.vmap(jax.random.fold_in)(keys_B, t_B)


def _sample_keys(keys_Q, samples: int):
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(keys_Q, jnp.arange(samples)).reshape(-1)


def _row_keys(key, count: int):
    if key.ndim:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


def _fit(model, params, length: int, new: int) -> int:
    """Round the prompts' width up to a bucket that leaves room for the new tokens."""
    # Refused beyond, where a model that looks its positions up would give NaN.
    most = model.max_length(params.get("adapters"))
    if length + new > most:
        raise ValueError(
            f"max_new_tokens: got {new} after a prompt of {length} tokens; expected at most {most} "
            "together, the model's positions less virtual tokens; shorten one of them"
        )
    return shapes.bucket(length, min_size=MIN_LENGTH, max_size=most - new)


def _check_count(max_new_tokens: int):
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: got {max_new_tokens}; expected at least 1")
