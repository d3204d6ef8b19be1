"""Checked rows to token ids with a loss weight for each token.

    text      tokens of the text + eos            every token is a target
    prompt    tokens of prompt+response + eos     targets: from where they leave the prompt's tokens
    chat      tokens of the rendered template     targets: what the assistant wrote

A prompt of messages with its response is a chat whose first messages are given. `loss="all"` makes
every token a target. Prompt and response are tokenised as one text, so the model sees the same
tokens as in use; the response begins where the tokens of the prompt alone and those of the whole
first differ. A token with an end of the prompt in it is learned, and counted: in use the prompt is
tokenised alone, and ends otherwise. The weight of a token is row weight x message weight x (is a
target). A first token has no predecessor to be predicted from; packing gives it weight 0.

`fit` cuts what is longer than `max_tokens`, and counts: truncated, split, dropped.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.data import chat, spans, special_tokens
from ftjax.data.tokenizer import Encoding

LOSSES = ("completion", "all")
OVERLONG = ("truncate", "split", "drop", "error", "keep")
NO_TARGET = "no target left"
TOO_LONG = "overlong"
UNPREDICTED = "first token of an answer"
STRADDLES = "answer that begins inside a token of its prompt"
TOUCHES = "answer that begins right behind its prompt"
REMARKS = (UNPREDICTED, STRADDLES, TOUCHES)  # of examples that are there
SPACED = 0x3000  # scripts from here on put no spaces between words


class Example(NamedTuple):
    """tokens: int32 [n]. weights: float32 [n], of each token as a target."""

    tokens: np.ndarray
    weights: np.ndarray


def examples(
    rows: Sequence[dict],
    tokenizer,
    *,
    loss: str = "completion",
    template: "chat.Template | None" = None,
    append_eos: bool = True,
    special: bool = True,
    unfinished: bool = False,
    count: Counter | None = None,
) -> list[Example]:
    """Encode checked rows of texts, prompts and messages, mixed as they come, in order.

    template: needed for messages. append_eos: end texts and responses with eos (a chat template
    prints its own ends). special: read special-token strings inside prompts, responses and texts as
    tokens, and in messages those of every role; if not, a template's own markers, and what the
    assistant says, still are. unfinished: responses were cut off: nothing ends them, neither eos
    nor the template's end of a turn. count: takes the number of answers that are `STRADDLES`.
    Raises TemplateError for messages that give no target, ValueError without an eos token.
    """
    found: list[Example | None] = [None] * len(rows)
    for encode in (_text, _prompt, _dialog, _chat):
        index = [i for i, row in enumerate(rows) if _encoder_of(row) is encode]
        if not index:
            continue
        chosen = [rows[i] for i in index]
        options = {"template": template, "append_eos": append_eos, "special": special, "loss": loss}
        options |= {"unfinished": unfinished, "count": Counter() if count is None else count}
        for i, example in zip(index, encode(chosen, tokenizer, **options), strict=True):
            weights = np.ones(len(example.tokens)) if loss == "all" else example.weights
            weights = np.asarray(weights * rows[i]["weight"], np.float32)
            found[i] = Example(np.asarray(example.tokens, np.int32), weights)
    return found


def has_messages(row: dict) -> bool:
    """Return whether a checked row is of messages, which a chat template renders."""
    return "messages" in row or not isinstance(row.get("prompt", ""), str)


def unread(row: dict, template: "chat.Template | None") -> set[str]:
    """Return the keys of a row's messages that its template does not read, as messages.KEY."""
    if template is None or not has_messages(row):
        return set()
    messages = row.get("messages") or [*row["prompt"], *row.get("response", ())]
    return {f"messages.{key}" for key in template.unread(messages, tools=row.get("tools"))}


def _encoder_of(row: dict) -> Callable:
    if "text" in row:
        return _text
    if "messages" in row:
        return _chat
    return _dialog if has_messages(row) else _prompt


def _text(rows, tokenizer, *, append_eos, special, **_):
    texts = [row["text"] for row in rows]
    for encoding in tokenizer.encode_batch(texts, special=special):
        ids = _ended(encoding.ids, tokenizer, append_eos=append_eos)
        yield Example(ids, np.ones(len(ids)))


def _prompt(rows, tokenizer, *, append_eos, special, unfinished, count, **_):
    prompts = tokenizer.encode_batch([row["prompt"] for row in rows], special=special)
    wholes = [row["prompt"] + row["response"] for row in rows]
    count[TOUCHES] += sum(_touch(row["prompt"], row["response"]) for row in rows)
    wholes = tokenizer.encode_batch(wholes, special=special)
    for prompt, whole in zip(prompts, wholes, strict=True):
        ids = _ended(whole.ids, tokenizer, append_eos=append_eos and not unfinished)
        if unfinished and ids and ids[-1] == tokenizer.eos_id:  # of a tokenizer that adds its own
            ids = ids[:-1]
        own = prompt.ids[:-1] if prompt.ids[-1:] == [tokenizer.eos_id] else prompt.ids
        yield Example(ids, _after(own, ids, count=count))


def _touch(prompt: str, response: str) -> bool:
    """Return whether a word follows a word or the end of a sentence without a space."""
    before, after = prompt[-1:], response[0]
    ends = before.isalnum() or before in tuple(".?!:;)")
    return ends and after.isalnum() and max(ord(before), ord(after)) < SPACED


def _dialog(rows, tokenizer, **options):
    for row in rows:
        if row["prompt"][-1]["role"] == "assistant":
            raise chat.TemplateError(
                "the prompt ends with an assistant message; expected one of somebody else, which "
                "the response answers; move it into the response"
            )
        messages = [*row["prompt"], *row["response"]]
        if options["loss"] == "all" or len(row["response"]) > 1 or "weight" in messages[-1]:
            yield from _chat([row | {"messages": messages}], tokenizer, **options)
        else:
            yield _answer(row, tokenizer, **options)


def _answer(row, tokenizer, *, template, special, unfinished, count, **_) -> Example:
    """Learn all that the template prints behind the prompt, its end of the turn included."""
    hide, encode_batch = _reading(tokenizer, [row], template, special=special)
    messages, tools = hide([*row["prompt"], *row["response"]]), hide(row.get("tools"))
    prompt = template.render(messages[:-1], tools=tools, add_generation_prompt=True)
    if unfinished:
        whole = prompt + messages[-1]["content"]
    else:
        whole = template.render_checked(messages, tools=tools)
        spans.opens(template, whole, messages[:-1], tools, len(messages) - 1)
    before, ids = (encoding.ids for encoding in encode_batch([prompt, whole]))
    return Example(ids, _after(before, ids, count=count))


def _chat(rows, tokenizer, *, template, special, loss, count, **_):
    hide, encode_batch = _reading(tokenizer, rows, template, special=special)
    rendered = []
    for row in rows:
        messages, tools = hide(row["messages"]), hide(row.get("tools"))
        if loss == "all":
            _check_unmasked(messages)
            rendered.append((template.render_checked(messages, tools=tools), []))
        else:
            prompt = len(row.get("prompt", ()))
            rendered.append(template.spans(messages, tools=tools, prompt=prompt))
    encodings = encode_batch([text for text, _ in rendered])
    for row, (_, found), encoding in zip(rows, rendered, encodings, strict=True):
        weights = _assistant_weights(row["messages"], found, encoding=encoding, count=count)
        yield Example(encoding.ids, weights)


def _check_unmasked(messages: list[dict]) -> None:
    """Raise where a message asks for a weight of its own, which loss="all" does not give."""
    for n, each in enumerate(messages):
        if each.get("weight", 1.0) != 1.0:
            raise chat.TemplateError(
                f"message {n} has the weight {each['weight']} (or train, training, loss_mask), and "
                "loss='all' learns every token; expected none; drop it, or set loss='completion'"
            )


def _reading(tokenizer, rows, template, *, special: bool):
    """Return (hide, encode_batch) for messages; a template prints bos itself where it wants it."""
    if special:
        plain = functools.partial(tokenizer.encode_batch, add_special_tokens=False)
        return lambda value: value, plain
    guard = _guard(tokenizer, special_tokens.free([rows, template.source, template.arguments]))
    return guard.hide, guard.encode_batch


@functools.lru_cache(maxsize=4)
def _guard(tokenizer, start: int) -> special_tokens.Guard:
    return special_tokens.Guard(tokenizer, start)


def _ended(ids: list[int], tokenizer, *, append_eos: bool) -> list[int]:
    if not append_eos or (ids and ids[-1] == tokenizer.eos_id):
        return ids
    if tokenizer.eos_id is None:
        raise ValueError(
            "tokenizer: got no eos token; expected one, or the model never learns to stop; set "
            "eos_token in tokenizer_config.json, or append_eos=False to do without"
        )
    return [*ids, tokenizer.eos_id]


def _after(prompt: list[int], whole: list[int], *, count: Counter) -> np.ndarray:
    """Return weight 0 for the tokens that `whole` shares with `prompt` from the start, else 1."""
    start = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), None)
    count[STRADDLES] += start is not None
    start = min(len(prompt), len(whole)) if start is None else start
    return np.arange(len(whole)) >= start


def _assistant_weights(
    messages: list[dict], spans: list[chat.Span], *, encoding: Encoding, count: Counter
):
    """Return the message weight for every token that overlaps a span, 0 elsewhere."""
    turns = [each.get("weight", 1.0) for each in messages if each["role"] == "assistant"]
    weights = np.zeros(len(encoding.ids))
    offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
    for span in spans:
        overlap = (offsets[:, 0] < span.end) & (offsets[:, 1] > span.start)
        weights[overlap] = turns[span.turn] if span.turn < len(turns) else 1.0
        count[STRADDLES] += bool((offsets[overlap, 0] < span.start).any())
    return weights


def fit(example: Example, max_tokens: int, *, overlong: str) -> tuple[list[Example], Counter]:
    """Return the pieces of `example` that fit into `max_tokens`, and what happened to it.

    overlong: "truncate" keeps the beginning, "split" keeps all of it in pieces, "drop" leaves it
    out, "error" raises ValueError, "keep" changes nothing (for packing that cuts by itself).
    A piece without any target is left out and counted.
    """
    count = Counter()
    length = len(example.tokens)
    pieces = [example]
    if length > max_tokens and overlong != "keep":
        if overlong == "error":
            raise ValueError(
                f"got {length} tokens; expected at most max_tokens={max_tokens}; raise max_tokens "
                "or set overlong='truncate', 'split' or 'drop'"
            )
        count[{"truncate": "truncated", "split": "split", "drop": TOO_LONG}[overlong]] += 1
        pieces = _cut(example, max_tokens, overlong=overlong)
    kept = [piece for piece in pieces if piece.weights[1:].any()]
    count[NO_TARGET] += len(pieces) - len(kept)
    return kept, +count


def _cut(example: Example, max_tokens: int, *, overlong: str) -> list[Example]:
    if overlong == "drop":
        return []
    stop = max_tokens if overlong == "truncate" else len(example.tokens)
    starts = range(0, stop, max_tokens)
    return [Example(*(part[s : s + max_tokens] for part in example)) for s in starts]
