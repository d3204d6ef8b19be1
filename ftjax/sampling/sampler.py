"""Choosing the next token: temperature, top-k, top-p (arXiv:1904.09751), min-p (arXiv:2407.01082).

    p(v) ~ exp(logit_v / temperature), zeroed outside the k likeliest tokens, outside the smallest
    set of likeliest tokens whose probability reaches p, and where it is below min_p times the
    largest probability

Temperature 0 is greedy. Tokens that tie with the last one kept are kept too.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ftjax.ops import fast


def make(
    *, temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None,
    min_p: float | None = None, tempered: bool = False,
) -> Callable:  # fmt: skip
    """Make `choose(logits_BV, keys_B) -> (tokens_B, logps_B)`; each row draws with its own key.

    `logps` are under the model itself: temperature 1 (that of the drawing when `tempered`), nothing
    cut off.

    Raises:
      ValueError: temperature < 0, top_k < 1, top_p or min_p outside (0, 1], tempered and greedy.
    """
    _check(temperature, top_k, top_p, min_p)
    if tempered and temperature == 0:
        raise ValueError("temperature: got 0; expected more, for probabilities under it")
    scale = 1 / temperature if tempered else 1.0

    def choose(logits_BV, keys_B):
        # A sum over the vocabulary in bfloat16 would round most of its terms away.
        logits_BV = logits_BV.astype(jnp.float32)
        if temperature == 0:
            tokens_B = fast.argmax(logits_BV)
        else:
            # Temperature, then k, p and min-p: the order of transformers.
            kept_BV = top(logits_BV / temperature, k=top_k, p=top_p, min_p=min_p)
            # The largest logit after Gumbel noise is a draw from the softmax; no cumulative sum.
            noise = lambda key: jax.random.gumbel(key, logits_BV.shape[1:])
            tokens_B = fast.argmax(kept_BV + jax.vmap(noise)(keys_B))
        logps_BV = jax.nn.log_softmax(logits_BV * scale)
        return tokens_B, jnp.take_along_axis(logps_BV, tokens_B[:, None], axis=-1)[:, 0]

    return choose


def sample_rows(logits_BV, keys_B, *, temperature_B, top_p_B):
    """Choose as `make` does where every row has numbers of its own: (tokens_B, logps_BV).

    temperature_B, top_p_B: float32, inside the program; nobody checks them here. `logps_BV` are
    those of the whole vocabulary, at temperature 1 and with nothing cut off.
    """
    logits_BV = logits_BV.astype(jnp.float32)

    def cut(heated_BV):
        edge_B1 = fast.threshold(heated_BV, jax.nn.softmax(heated_BV, axis=-1), top_p_B[:, None])
        return _cut(heated_BV, jnp.where(top_p_B[:, None] < 1, edge_B1, -jnp.inf))

    def draw():
        heated_BV = logits_BV / jnp.where(temperature_B > 0, temperature_B, 1.0)[:, None]
        kept_BV = jax.lax.cond((top_p_B < 1).any(), cut, lambda x: x, heated_BV)
        noise = lambda key: jax.random.gumbel(key, logits_BV.shape[1:])
        drawn_B = fast.argmax(kept_BV + jax.vmap(noise)(keys_B))
        return jnp.where(temperature_B > 0, drawn_B, fast.argmax(logits_BV))

    # Noise and cut cost several times the argmax, and a batch is often greedy altogether.
    tokens_B = jax.lax.cond((temperature_B > 0).any(), draw, lambda: fast.argmax(logits_BV))
    return tokens_B, jax.nn.log_softmax(logits_BV)


def top(logits_BV, *, k: int | None, p: float | None, min_p: float | None = None):
    """Set to -inf what top-k, top-p and min-p leave out; p counts what top-k has kept."""
    if k is not None and k < logits_BV.shape[-1]:
        logits_BV = _cut(logits_BV, fast.threshold(logits_BV, jnp.ones_like(logits_BV), k))
    if p is not None and p < 1:
        p_BV = jax.nn.softmax(logits_BV, axis=-1)
        logits_BV = _cut(logits_BV, fast.threshold(logits_BV, p_BV, p))
    if min_p is not None:
        # In logs a ratio to the largest probability needs no softmax.
        edge_B1 = logits_BV.max(-1, keepdims=True) + math.log(min_p)
        logits_BV = _cut(logits_BV, edge_B1)
    return logits_BV


def _cut(logits_BV, edge_B1):
    return jnp.where(logits_BV < edge_B1, -jnp.inf, logits_BV)


def _check(temperature: float, top_k: int | None, top_p: float | None, min_p: float | None):
    if temperature < 0:
        raise ValueError(f"temperature: got {temperature}; expected at least 0; 0 is greedy")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: got {top_k}; expected at least 1; None keeps every token")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: got {top_p}; expected 0 < p <= 1; None keeps every token")
    if min_p is not None and not 0 < min_p <= 1:
        raise ValueError(f"min_p: got {min_p}; expected 0 < p <= 1; None keeps every token")
