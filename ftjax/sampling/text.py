"""Strings in, strings out: prompts are encoded, generated in batches of one size, decoded.

    respond = make(model, tokenizer, max_new_tokens=64, batch_size=8)
    respond(params, ["The sky is", "2 + 2 ="])        ->  [" blue", " 4"]

The last batch is filled with dummy rows. Prompts run in order of length, so that a batch holds
prompts of one bucket, and prompt i draws with fold_in(key, i) wherever it ends up.
"""

import bisect
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ftjax.core import mesh as meshes
from ftjax.core import shapes
from ftjax.sampling import generation


class Answer(NamedTuple):
    """A sampled continuation: token ids of its prompt and its own (a stop token too), the text.

    finished: whether it ended by itself, at a stop token or a stop string.
    """

    prompt: list[int]
    tokens: list[int]
    text: str
    finished: bool


class Ended(NamedTuple):
    """Where an answer ends: how many of its tokens belong to it, its text, whether that is all."""

    count: int
    text: str
    finished: bool


def make(model, tokenizer, **options) -> Callable:
    """Make `respond(params, prompts, key=None, progress=...) -> list of str`, the new text alone.

    The options are those of `make_sampler`.
    """
    sample = make_sampler(model, tokenizer, **options)
    return lambda *args, **more: [answer.text for answer in sample(*args, **more)]


def make_sampler(
    model, tokenizer, *, batch_size: int = 8, stop_ids: Sequence[int] | None = None,
    until: Sequence[str] = (), encode: Callable | None = None, mesh=None, **sampling,
) -> Callable:  # fmt: skip
    """Make `sample(params, prompts, key=None, of_rows=None, progress=...) -> list of Answer`.

    `of_rows(params, index)` makes the params of a batch of these prompts.

    Args:
      tokenizer: `encode`, `decode`, `bos_id`, `eos_id`, `pad_id`.
      batch_size: rows at a time; over a mesh, a multiple of its replicas.
      stop_ids: tokens that end a text and are left out of it; the eos token when not given.
      until: an answer ends before the first of these strings (a newline, for one line).
      encode: prompt -> ids, for chat templates; `tokenizer.encode` when not given.
      mesh: shard the rows over its replicas.
      sampling: max_new_tokens and how tokens are drawn, see `generate.make`.
    """
    stop_ids = stops(tokenizer) if stop_ids is None else tuple(stop_ids)
    meshes.check_batch(batch_size, 1, mesh)
    generate = generation.make(
        model, stop_ids=stop_ids, pad_id=_pad(tokenizer), **sampling,
        out_shardings=None if mesh is None else meshes.replicated(mesh),
    )  # fmt: skip

    def sample(params, prompts, key=None, *, of_rows=None, progress=_silent) -> list[Answer]:
        ids = [prompt_ids(prompt, tokenizer, encode=encode) for prompt in prompts]
        key, answers = jax.random.key(0) if key is None else key, [None] * len(ids)
        for index in _groups(ids, batch_size):
            rows = index + [0] * (batch_size - len(index))  # the rest are dummies
            own = of_rows(params, rows) if of_rows else params
            batch = _batch([ids[i] for i in index], batch_size, _pad(tokenizer), mesh)
            with _under(mesh):
                found = _new_ids(generate(own, *batch, _row_keys(key, rows, mesh)))[: len(index)]
            for i, new in zip(index, found, strict=True):
                end = ended(new, decode=tokenizer.decode, stop_ids=stop_ids, until=until)
                answers[i] = Answer(ids[i], new[: end.count], end.text, end.finished)
            progress(len(index), sum(map(len, found)))
        return answers

    return sample


def _silent(prompts: int, tokens: int) -> None:
    """Report no progress."""


def make_stream(
    model, tokenizer, *, stop_ids: Sequence[int] | None = None, encode: Callable | None = None,
    **sampling,
) -> Callable:  # fmt: skip
    """Make `stream(params, prompt, key) -> iterator of pieces of text`, for one prompt."""
    stop_ids = stops(tokenizer) if stop_ids is None else stop_ids
    tokens = generation.make_stream(model, stop_ids=stop_ids, pad_id=_pad(tokenizer), **sampling)

    def stream(params, prompt, key) -> Iterator[str]:
        ids = prompt_ids(prompt, tokenizer, encode=encode)
        yield from pieces(tokens(params, ids, key), tokenizer.decode)

    return stream


def pieces(tokens: Iterator[int], decode: Callable) -> Iterator[str]:
    """Turn tokens as they come into text, holding back what is not yet whole characters."""
    ids: list[int] = []
    shown = 0
    for token in tokens:
        ids.append(token)
        # All of it anew: what a token reads depends on those before it.
        text = decode(ids)
        if len(text) > shown and not text.endswith("\ufffd"):  # half of a multi-byte character
            yield text[shown:]
            shown = len(text)
    if ids and (rest := decode(ids)[shown:]):
        yield rest


def stops(tokenizer, names: Sequence[str] = ()) -> tuple[int, ...]:
    """List the ids that end a text: eos, and those of `names` that the vocabulary knows."""
    found = [tokenizer.eos_id, *(tokenizer.token_id(name) for name in names)]
    return tuple(dict.fromkeys(token for token in found if token is not None))


def prompt_ids(prompt, tokenizer, *, encode: Callable | None = None) -> list[int]:
    """Encode a prompt to continue: no eos at its end, and at least one token (bos).

    Raises:
      ValueError: an empty prompt, and the tokenizer has no bos token to begin with.
    """
    ids = list((encode or tokenizer.encode)(prompt))
    # Some tokenizers end every text with eos; behind it a model would begin another text.
    while len(ids) > 1 and ids[-1] == tokenizer.eos_id:
        ids.pop()
    if not ids and tokenizer.bos_id is None:
        raise ValueError("prompt: got no tokens; expected one at least; write something")
    return ids or [tokenizer.bos_id]


def without_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    """Drop the stop token at the end, if there is one."""
    return ids[:-1] if ids and ids[-1] in stop_ids else ids


def ended(
    ids: list[int], *, decode: Callable, stop_ids: Sequence[int], until: Sequence[str] | str
) -> Ended:
    """Find the end of sampled tokens: a stop token, or the token that completes a stop string.

    What follows such a token belongs to no answer: a sampler that knew strings would not have
    drawn it. The text has neither the stop token nor the stop string.
    """
    until = (until,) if isinstance(until, str) else tuple(until)
    body = without_stop(ids, stop_ids)
    text = decode(body)
    if cut(text, until) == text:
        return Ended(len(ids), text, len(body) < len(ids))
    # More tokens decode to more text, so the first that completes a string is found by halving.
    is_complete = lambda count: any(each in decode(body[:count]) for each in until)
    count = 1 + bisect.bisect_left(range(1, len(body) + 1), True, key=is_complete)
    return Ended(count, cut(decode(body[:count]), until), True)


def cut(text: str, until: Sequence[str]) -> str:
    """Keep the text before the first occurrence of any of these strings."""
    return text[: min((at for each in until if (at := text.find(each)) >= 0), default=len(text))]


def _groups(ids: list[list[int]], size: int) -> Iterator[list[int]]:
    """Yield the indices of each batch, shortest prompts first."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    return (order[start : start + size] for start in range(0, len(order), size))


def _batch(ids: list[list[int]], batch_size: int, pad_id: int, mesh):
    filled = ids + [[]] * (batch_size - len(ids))
    # The width is rounded here, on the host, so that few shapes are sent to the devices.
    prompts = shapes.pad_rows(filled, max(map(len, ids)), fill=pad_id)
    batch = prompts, np.int32([len(each) for each in filled])
    return batch if mesh is None else meshes.put(batch, meshes.batch_shardings(batch, mesh))


def _new_ids(output: generation.Output) -> list[list[int]]:
    tokens, lengths = np.asarray(output.tokens), np.asarray(output.lengths)
    return [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]


def _row_keys(key, index: list[int], mesh):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.int32(index))
    if mesh is None:
        return keys
    # Processes must agree on where an argument lies: keys go to the mesh as the numbers they are.
    data = meshes.put(np.asarray(jax.random.key_data(keys)), meshes.replicated(mesh))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))


def _under(mesh):
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def _pad(tokenizer) -> int:
    # Any id will do where there is none: padding is never read.
    return 0 if tokenizer.pad_id is None else tokenizer.pad_id
