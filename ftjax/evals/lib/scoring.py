"""What an evaluator is: numbers per example, and a summary of them that is pure numpy.

    evaluate = nll.make(model=model, examples=examples)
    evaluate(params)                        {"nll": 2.31, ...}
    evaluate.examples(params)               {"nll": array [n], "tokens": array [n]}
    evaluate.summary(arrays[some indices])  the same metrics of a resample, for a bootstrap

Also the scoring that evaluators share: log-likelihoods of sequences, whatever their lengths. Each
example's sum is made on the device; sums over examples are made on the host in float64, so results
do not depend on how examples were batched.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import memo, rounding, shapes
from ftjax.core import mesh as meshes
from ftjax.ops import loss

Arrays = Mapping[str, np.ndarray]
MIN_LENGTH = 16  # the shortest bucket of lengths
PROGRAMS = 8  # that are kept for other scorers of the same model


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A function of params; `examples` and `summary` are its two halves.

    answered: of evaluators that let the model write, `examples` together with what was written:
    {"prompt", "answer", "target"} of each example.
    """

    examples: Callable  # params -> {name: array [n]}
    summary: Callable[[Arrays], dict[str, float]]
    answered: Callable | None = None  # params -> ({name: array [n]}, [dict] of n)

    def __call__(self, params) -> dict[str, float]:
        """Evaluate {"model", "adapters"}; adapters None or missing = off."""
        return self.summary(self.examples(params))


def make_scorer(
    model, *, batch_size: int, chunk: int = 64, max_tokens: int | None = None, mesh=None
) -> Callable:  # fmt: skip
    """Make `score(params, examples) -> (logp [n], weight [n])` in float64.

    `examples` are (tokens int [t], weights float [t]) pairs; weights[i] weighs tokens[i] as the
    target that is predicted from the tokens before it, so weights[0] never counts:

        logp = sum_{i>0} weights_i * log p(tokens_i | tokens_<i),   weight = sum_{i>0} weights_i

    The compiled program is shared by all calls, those of other scorers of such a model too: one per
    bucket of lengths (powers of two, and `max_tokens`), and per structure of `params` (with
    adapters, without).

    max_tokens: what examples were cut to, if they were: no batch need be wider.

    Raises (on a call):
      ValueError: an example is longer than the model's positions.
    """
    call = _scoring(model, chunk, mesh)
    score = _runner(model, call, batch_size=batch_size, max_tokens=max_tokens, mesh=mesh)
    return lambda params, examples: tuple(score(params, examples, count=2))


# All that the program is made of is an argument, and a model is what its declarations say.
@memo.keep(PROGRAMS)
def _scoring(model, chunk: int, mesh) -> Callable:
    """Compile what `make_scorer` scores a batch by."""

    def score_batch(params, batch):
        logps_BT = target_logps(model, params, batch, chunk=chunk)
        weights_BT = batch["weights"][:, 1:]
        # A row of weight 0 must give 0 even where its padding gives infinities.
        counted = jnp.where(weights_BT == 0, 0, logps_BT * weights_BT)
        return counted.sum(-1), weights_BT.sum(-1)

    return make_call(model, score_batch, mesh=mesh)


def make_greedy_scorer(model, *, batch_size: int, chunk: int = 64, mesh=None) -> Callable:
    """Make `score(params, examples) -> (logp [n], greedy [n])` in float64; see `make_scorer`.

    greedy: 1 where each token of weight 1 is the likeliest of its place, the first of several that
    tie, as greedy decoding takes it; else 0. Weights are 0 or 1.
    """

    def of_token(logits, targets):
        hit = loss.is_target(targets, logits.shape[-1])
        # A masked sum and not a gather, as in `ops.loss`: it stays local when V is sharded.
        logp = jnp.where(hit, logits, 0).sum(-1) - jax.nn.logsumexp(logits, -1)
        return jnp.stack([logp, logits.argmax(-1) == targets], -1)

    def score_batch(params, batch):
        targets_BT = jnp.roll(batch["tokens"], -1, axis=1)
        found = loss.along(
            of_token, states(model, params, batch), chunk=chunk, targets_BT=targets_BT
        )
        counts_BT = batch["weights"][:, 1:] > 0
        logps_BT, likeliest_BT = jnp.moveaxis(found[:, :-1], -1, 0)
        logp_B = jnp.where(counts_BT, logps_BT, 0).sum(-1)
        return logp_B, (likeliest_BT >= counts_BT).all(-1).astype(logp_B.dtype)

    score = make_runner(model, score_batch, batch_size=batch_size, mesh=mesh)
    return lambda params, examples: tuple(score(params, examples, count=2))


def make_runner(
    model, function: Callable, *, batch_size: int, max_tokens: int | None = None, mesh=None
) -> Callable:  # fmt: skip
    """Make `run(params, examples, count) -> [count arrays [n] float64]` of a function of batches.

    `function(params, batch)` returns `count` arrays [B]; params may be a tuple of trees, of models
    that are compared; examples and max_tokens are as for `make_scorer`.
    """
    call = make_call(model, function, mesh=mesh)
    return _runner(model, call, batch_size=batch_size, max_tokens=max_tokens, mesh=mesh)


def _runner(model, call: Callable, *, batch_size: int, max_tokens: int | None, mesh) -> Callable:
    meshes.check_batch(batch_size, 1, mesh)

    def run(params, examples: Sequence, *, count: int) -> list[np.ndarray]:
        results = [np.zeros(len(examples)) for _ in range(count)]
        trees = params if isinstance(params, tuple) else (params,)
        most = min(model.max_length(each.get("adapters")) for each in trees)
        own = batches(examples, batch_size=batch_size, max_length=most, max_tokens=max_tokens)
        for index, batch in own:
            for result, part in zip(results, call(params, batch), strict=True):
                result[index] = np.asarray(part)[: len(index)]
        return results

    return run


def make_call(model, function: Callable, *, mesh=None) -> Callable:
    """Compile `function(params, batch)`; every process is given the whole of what it returns."""
    compiled = jax.jit(
        function, out_shardings=None if mesh is None else meshes.replicated(mesh),
        compiler_options=rounding.compiler_options(model.dtype),
    )  # fmt: skip

    def call(params, batch):
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            return compiled(params, place(batch, mesh))

    return call


def target_logps(model, params, batch, *, chunk: int):
    """Compute log p(tokens[:, i+1] | tokens[:, :i+1]), [B, T-1] float32; label shift done here."""
    x_BTD, w_VD, cap = states(model, params, batch)
    targets_BT = jnp.roll(batch["tokens"], -1, axis=1)
    return loss.logps(x_BTD, w_VD, targets_BT, chunk=chunk, cap=cap)[0][:, :-1]


def states(model, params, batch) -> tuple:
    """Compute what logits are made of: hidden states [B,T,D], embedding [V,D], cap or None."""
    weights, adapters = params["model"], params.get("adapters")
    x_BTD = model.hidden(
        weights, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segments"],
        adapters=adapters,
    )  # fmt: skip
    return x_BTD, *model.head(weights, adapters)


def batches(examples: Sequence, *, batch_size: int, max_length: int, max_tokens: int | None = None):
    """Yield (indices, batch) over all examples, shortest first; dummies fill the last batch.

    max_length: that of the model. max_tokens: the widest batch, where no example is longer.
    """
    order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]))
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        chosen = [examples[i] for i in index]
        longest = max(len(each[0]) for each in chosen)
        # A power of two behind the data's own length is up to twice the work, all of it padding.
        most = max_length if max_tokens is None else min(max_length, max(max_tokens, longest))
        width = shapes.bucket(longest, min_size=MIN_LENGTH, max_size=most)
        yield index, rectangle(chosen, batch_size=batch_size, width=width)


def rectangle(examples: Sequence, *, batch_size: int, width: int) -> dict[str, np.ndarray]:
    """Lay examples into a batch [batch_size, width]; what is left over is padding, segment 0."""
    empty = [[]] * (batch_size - len(examples))
    lengths = np.int32([len(each[0]) for each in examples] + [0] * len(empty))
    inside = np.arange(width) < lengths[:, None]
    return {
        "tokens": shapes.pad_rows([each[0] for each in examples] + empty, width, fill=0),
        "weights": shapes.pad_rows(
            [each[1] for each in examples] + empty, width, fill=0, dtype=np.float32
        ),
        "segments": inside.astype(np.int32),
        "positions": np.where(inside, np.arange(width), 0).astype(np.int32),
    }


def place(batch, mesh):
    """Put a batch that every process has whole on the mesh, if there is one."""
    return batch if mesh is None else meshes.put(batch, meshes.batch_shardings(batch, mesh))
