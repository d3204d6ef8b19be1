"""Text generation: one jitted program that reads the prompts and then decodes token by token.

Prompts are right-padded and slot = position in the cache, so a row never sees padding, neither its
own nor another row's. Adapters apply as they are, unmerged. The loop ends when every row has ended.

    generate = make(model, max_new_tokens=64, stop_ids=(2,), pad_id=0)
    output = generate(params, prompts_BT, lengths_B, key)      # output.tokens, .lengths, .logps

Token t of a row is drawn with fold_in(the row's key, t): a row's text does not depend on the batch
that it is in. `make_stream` gives the tokens of one row as they come.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import padding
from ftjax.sampling import choose as choosing

LEAST = 16  # the shortest prompt bucket


class Output(NamedTuple):
    """What was generated, without the prompts; N = max_new_tokens."""

    tokens: jax.Array  # int32 [B, N], pad_id after the end
    lengths: jax.Array  # int32 [B], tokens generated, the stop token among them
    logps: jax.Array  # float32 [B, N], under the model at temperature 1; 0 after the end


class _Loop(NamedTuple):
    count: jax.Array  # int32 [], tokens generated so far
    output: Output
    open_B: jax.Array  # bool, rows that have not ended
    cache: Any


def make(
    model, *, max_new_tokens: int, temperature: float = 0.0, top_k: int | None = None,
    top_p: float | None = None, stop_ids: Sequence[int] = (), pad_id: int = 0, out_shardings=None,
) -> Callable:  # fmt: skip
    """Make `generate(params, prompts_BT, lengths_B, key) -> Output`.

    Args:
      model: the handle.
      max_new_tokens: N, at least 1.
      temperature: divides the logits; 0 is greedy. See `choose` for this and the next two.
      top_k: draw from the k likeliest tokens.
      top_p: draw from the likeliest tokens that make up this probability.
      stop_ids: a row ends after any of these.
      pad_id: fills the prompts and ended rows.
      out_shardings: where the output lies on a mesh.

    `params` is {"model", "adapters"} (adapters None or missing = off). A row of length 0 is a dummy
    that generates nothing. `key` is one key, from which row i takes fold_in(key, i), or [B] keys.
    One program is compiled per batch size and prompt bucket (a power of two).

    Raises (on a call):
      ValueError: prompt and new tokens do not fit into the model's positions.
    """
    _check_count(max_new_tokens)
    choose = choosing.make(temperature=temperature, top_k=top_k, top_p=top_p)
    options = dict(choose=choose, new=max_new_tokens, stop_ids=tuple(stop_ids), pad_id=pad_id)
    run = jax.jit(functools.partial(_run, model, **options), out_shardings=out_shardings)

    def generate(params, prompts_BT, lengths_B, key) -> Output:
        B, T = prompts_BT.shape
        pad = np.pad if isinstance(prompts_BT, np.ndarray) else jnp.pad
        fill = ((0, 0), (0, _fit(model, T, max_new_tokens) - T))
        prompts_BT = pad(prompts_BT, fill, constant_values=pad_id)
        return run(params, prompts_BT, lengths_B, _row_keys(key, B))

    return generate


def _run(model, params, prompts_BT, lengths_B, keys_B, *, choose, new, stop_ids, pad_id) -> Output:
    stops = jnp.asarray(stop_ids, jnp.int32)

    def emit(loop: _Loop, logits_BV) -> _Loop:
        t, (tokens, lengths, logps) = loop.count, loop.output
        token_B, logp_B = choose(logits_BV, _at(keys_B, t))
        tokens = tokens.at[:, t].set(jnp.where(loop.open_B, token_B, pad_id))
        logps = logps.at[:, t].set(jnp.where(loop.open_B, logp_B, 0))
        still_B = loop.open_B & ~jnp.isin(token_B, stops)
        return _Loop(t + 1, Output(tokens, lengths + loop.open_B, logps), still_B, loop.cache)

    def body(loop: _Loop) -> _Loop:
        last_B, at_B = loop.output.tokens[:, loop.count - 1], lengths_B + loop.count - 1
        logits_BV, cache = decode(model, params, last_B, at_B, loop.open_B, loop.cache)
        return emit(loop._replace(cache=cache), logits_BV)

    B, T = prompts_BT.shape
    logits_BV, cache = prefill(model, params, prompts_BT, lengths_B, length=T + new)
    tokens, logps = jnp.full((B, new), pad_id, jnp.int32), jnp.zeros((B, new), jnp.float32)
    blank = Output(tokens, jnp.zeros(B, jnp.int32), logps)
    loop = emit(_Loop(jnp.int32(0), blank, lengths_B > 0, cache), logits_BV)
    more = lambda loop: (loop.count < new) & loop.open_B.any()
    return jax.lax.while_loop(more, body, loop).output


def make_stream(
    model, *, max_new_tokens: int, temperature: float = 0.0, top_k: int | None = None,
    top_p: float | None = None, stop_ids: Sequence[int] = (), pad_id: int = 0,
) -> Callable:  # fmt: skip
    """Make `stream(params, prompt_ids, key) -> iterator of token ids`, for one row.

    It yields what row 0 of `generate` holds for the same key, each token when it is made, and ends
    before a stop token.
    """
    _check_count(max_new_tokens)
    choose = choosing.make(temperature=temperature, top_k=top_k, top_p=top_p)

    @jax.jit
    def first(params, prompt_BT, length_B, key_B):
        width = prompt_BT.shape[1] + max_new_tokens
        logits, cache = prefill(model, params, prompt_BT, length_B, length=width)
        return choose(logits, _at(key_B, 0))[0], cache

    @functools.partial(jax.jit, donate_argnames="cache")
    def step(params, token_B, at_B, cache, key_B, t):
        logits, cache = decode(model, params, token_B, at_B, at_B >= 0, cache)
        return choose(logits, _at(key_B, t))[0], cache

    def stream(params, prompt_ids: Sequence[int], key) -> Iterator[int]:
        length, key_B = len(prompt_ids), _row_keys(key, 1)
        width = _fit(model, length, max_new_tokens)
        prompt_BT = padding.rows([prompt_ids], width, fill=pad_id)
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
    B, T = prompts_BT.shape
    positions_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    segments_BT = (positions_BT < lengths_B[:, None]).astype(jnp.int32)
    x_BTD, cache = model.hidden(
        params["model"], prompts_BT, positions_BT=positions_BT, segments_BT=segments_BT,
        adapters=params.get("adapters"), cache=model.init_cache(batch=B, length=length),
    )  # fmt: skip
    last_B = jnp.maximum(lengths_B - 1, 0)
    x_BD = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)[:, 0]
    return model.logits(params["model"], x_BD, adapters=params.get("adapters")), cache


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


def _at(keys_B, t):
    return jax.vmap(jax.random.fold_in, (0, None))(keys_B, t)


def _row_keys(key, count: int):
    if key.ndim:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


def _fit(model, length: int, new: int) -> int:
    """Round the prompts' width up to a bucket that leaves room for the new tokens."""
    most = model.config.max_positions
    if length + new > most:
        raise ValueError(
            f"max_new_tokens: got {new} after a prompt of {length} tokens; expected at most {most} "
            "together, the model's positions; shorten one of them"
        )
    return padding.bucket(length, least=LEAST, most=most - new)


def _check_count(max_new_tokens: int):
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: got {max_new_tokens}; expected at least 1")
