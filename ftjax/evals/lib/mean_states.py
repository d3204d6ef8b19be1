"""One vector a text: the mean of a model's final hidden states over its tokens.

    embed = make(model, tokenizer, batch_size=16)
    embed(params, ["The sky is blue."])                       float32 [1, D]

Of a base that was trained to predict and not to embed, such vectors rank passages poorly beside
BM25; they need no other model.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from ftjax.evals.lib import scoring


def make(model, tokenizer, *, batch_size: int, mesh=None) -> Callable:
    """Make `embed(params, texts) -> [n, D]`; a text longer than the positions is cut."""

    def mean(params, batch):
        x_BTD = scoring.states(model, params, batch)[0].astype(jnp.float32)
        inside_BT = batch["segments"] > 0
        # Where there is no token, states may be no numbers.
        total_BD = jnp.where(inside_BT[..., None], x_BTD, 0).sum(1)
        return total_BD / jnp.maximum(inside_BT.sum(1, keepdims=True), 1)

    call = scoring.make_call(model, mean, mesh=mesh)

    def embed(params, texts: Sequence[str]) -> np.ndarray:
        most = model.max_length(params.get("adapters"))
        ids = [each.ids[:most] for each in tokenizer.encode_batch(list(texts))]
        found = np.zeros((len(ids), model.config.dim), np.float32)
        examples = [(np.asarray(each, np.int32), np.ones(len(each), np.float32)) for each in ids]
        for index, batch in scoring.batches(examples, batch_size=batch_size, max_length=most):
            found[index] = np.asarray(call(params, batch))[: len(index)]
        return found

    return embed
