"""One training step as a pure function; everything it depends on is an argument.

Full fine-tuning, LoRA and preference losses are the same lines with other arguments. The average
that a step differentiates is exact however the batch is cut: the weights of all microbatches (and
devices) are added first, which needs no forward pass, then each microbatch contributes
total / that sum, and gradients only add.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftjax.core import rng
from ftjax.optim import ema as averages
from ftjax.train import reference_policy
from ftjax.train import state as states
from ftjax.train.policy import Policy
from ftjax.train.state import State

Anchors = Mapping[str, tuple[Callable, float]]  # (policy, reference, batch, key) -> Mean; weight


def make_step(
    model, objective, tx, *, penalties: Mapping[str, Callable] | None = None,
    learning_rate: Callable | None = None, accumulate: int = 1, chunk: int = 64,
    ema_decay: float | None = None, reduce: Callable = lambda x: x,
    shard_key: Callable = lambda key: key, reference: Callable = reference_policy.adapters_off,
    anchors: Anchors | None = None, projected: Anchors | None = None,
    integrate: Callable | None = None, keep: Callable = lambda x: x, follows: bool = False,
) -> Callable:  # fmt: skip
    """Make `step(state, frozen, batch) -> (state, metrics)`, of `Mean`s and scalars.

    Args:
      objective: `(policy, reference, batch, key) -> {"loss": Mean or tuple of Mean, name: Mean}`.
      tx: the optax transformation over the trainable tree; see `_Found` for its extra arguments.
      penalties: `(params, frozen["penalties"][label]) -> scalar` by label, differentiated too; each
        is a metric `penalty/<label>`, and the metric `loss` is the objective's alone.
      accumulate: microbatches of a batch. chunk: positions per chunk of the log-probabilities.
      learning_rate: `step -> rate`, a metric. ema_decay: of a moving average of the trainables.
      reduce: sums a tree over the devices of a mapped axis; shard_key makes a key differ there.
      reference: `(policy, batch) -> policy`, what losses compare with; follows: it is the average.
      anchors: terms on batch["anchors"][label] and their weights; projected: no part of the loss.
      integrate: adds a step to `state.integral`. keep: see `optim.stacks.keeper`.
    """
    options = dict(reference=reference, accumulate=accumulate, chunk=chunk)
    find = _finding(
        model, objective, penalties or {}, anchors or {}, projected or {}, options, keep
    )
    tx = optax.with_extra_args_support(tx)

    def step(state: State, frozen, batch):
        # By (run, step, purpose) and not split: a resumed run needs no stream of its own.
        key = shard_key(rng.stream(state.key, state.step, "objective"))
        teacher = _average(state, frozen) if follows else None
        found = find(state.params, frozen, batch, key, reduce, teacher)
        moves, opt_state = tx.update(found.total, state.opt_state, state.params, **found.offered)
        params = optax.apply_updates(state.params, keep(moves))  # decays move without a gradient
        metrics = found.metrics | _seen(state, found.total, batch, reduce, learning_rate)
        ema, integral = _followed(state, params, frozen, found, ema_decay, integrate)
        return State(state.step + 1, params, opt_state, ema, state.key, integral), metrics

    return step


def _average(state: State, frozen):
    """Return the parameters with the average, as the step before left it, for what trains."""
    return states.combine(averages.cast(state.ema, state.params), frozen)


def _followed(state: State, params, frozen, found: "_Found", ema_decay, integrate) -> tuple:
    """Return the average of the trainables and the path integral, each None where there is none."""
    ema, integral = state.ema, state.integral
    if ema_decay is not None:
        # Of the parameters after the update: at the last step the average includes it.
        ema = averages.update(ema, params, decay=ema_decay)
    if integral is not None:
        ends = (states.combine(each, frozen) for each in (state.params, params))
        integral = integrate(integral, *ends, found.own, found.by)
    return ema, integral


class _Found(NamedTuple):
    """What a step differentiates: gradients of the mean loss alone, and with penalties; metrics.

    offered: more gradients of this batch, as functions of the trainables that optimizers may take
    for extra arguments: `gradient` of all that the step differentiates, and `anchors`, of each
    projected term by label. by: `(trainable, frozen) -> gradients` of the mean loss by another
    split of the parameters; see `path_integral.make`.
    """

    own: Any
    total: Any
    metrics: dict
    offered: dict[str, Any]
    by: Callable


def _finding(model, objective, penalties: Mapping, anchors, projected, options: dict, keep):
    """Make `(trainable, frozen, batch, key, reduce, teacher) -> _Found`."""
    gradients = make_gradients(model, objective, anchors=anchors, **options)
    beside = {
        label: make_gradients(model, _objective_of(label, term), **options)
        for label, (term, _) in projected.items()
    }

    def find(trainable, frozen, batch, key, reduce, teacher) -> _Found:
        held = lambda frozen: frozen if teacher is None else frozen | {"average": teacher}
        mean = lambda trainable, frozen: gradients(trainable, held(frozen), batch, key, reduce)
        # After the reduction: every device would add the same penalty once more.
        whole = lambda own, trainable: _penalise(own, penalties, trainable, frozen)
        own, metrics = mean(trainable, frozen)
        total, values = whole(own, trainable)
        offered = dict(
            gradient=lambda params: keep(whole(mean(params, frozen)[0], params)[0]),
            anchors=_gradients_of(beside, keep, held(frozen), batch, key, reduce),
        )
        return _Found(own, keep(total), metrics | values, offered, lambda *split: mean(*split)[0])

    return find


def _objective_of(label: str, term: Callable) -> Callable:
    """Make an anchor's term the whole loss."""

    def objective(policy, reference, batch, key):
        return {"loss": term(policy, reference, batch["anchors"][label], key)}

    return objective


def _gradients_of(beside: Mapping[str, Callable], keep, *given) -> dict[str, Callable]:
    """Make `params -> gradients` of each, at this step."""
    of = lambda gradients: lambda params: keep(gradients(params, *given)[0])
    return {label: of(gradients) for label, gradients in beside.items()}


def _seen(state: State, grads, batch, reduce: Callable, learning_rate: Callable | None) -> dict:
    """Return the metrics of a step that are no objective's: `tokens` is without padding."""
    # Before clipping, which is inside of `tx`: it says when clipping acts.
    metrics = {"grad_norm": optax.tree.norm(grads)}
    # Segment 0 is padding, of whatever token: pad and eos may be one id.
    metrics["tokens"] = reduce((batch["segments"] > 0).sum())
    if learning_rate is not None:
        metrics["learning_rate"] = learning_rate(state.step)
    return metrics


def make_gradients(
    model, objective, *, accumulate: int = 1, chunk: int = 64,
    reference: Callable = reference_policy.adapters_off, anchors: Anchors | None = None,
) -> Callable:  # fmt: skip
    """Make `(trainable, frozen, batch, key, reduce) -> (gradients, metrics)` of the mean loss."""

    def outputs(trainable, frozen, batch, key):
        params = states.combine(trainable, frozen)
        policy = Policy(model, params, chunk, own_terms=[])
        # The reference may share weights with the policy; nothing of it may reach the gradient.
        fixed = policy.without_gradient()
        if (average := frozen.get("average")) is not None:
            fixed = dataclasses.replace(fixed, params=fixed.params | {"reference": average})
        seen = policy, reference(fixed, batch), batch, key
        metrics = _with_anchors(objective(*seen), anchors or {}, *seen)
        return _with_own_terms(metrics, policy.own_terms)

    def gradients(trainable, frozen, batch, key, reduce):
        # A key each: the same dropout in all microbatches would be another method.
        micro = (_cut(batch, accumulate), jax.random.split(key, accumulate))
        weigh = lambda one: [t.weight for t in _terms(outputs(trainable, frozen, *one))]
        # Weights depend on the batch alone: the compiler drops the forward pass of this line.
        weights = reduce([w.sum() for w in jax.lax.map(weigh, micro)])

        def loss(trainable, one):
            metrics = outputs(trainable, frozen, *one)
            totals = [t.total for t in _terms(metrics)]
            # 1e-30: a batch without a target has total 0 and weight 0, and counts 0, not NaN.
            value = sum(t / jnp.maximum(w, 1e-30) for t, w in zip(totals, weights, strict=True))
            return value, metrics | {"loss": value}

        one_gradient = jax.grad(loss, has_aux=True)
        if accumulate == 1:
            result = one_gradient(trainable, jax.tree.map(lambda leaf: leaf[0], micro))
        else:
            result = _sum_over(lambda one: one_gradient(trainable, one), micro)
        return reduce(result)

    return gradients


def _penalise(gradients, penalties: Mapping[str, Callable], trainable, frozen):
    """Add the gradients of penalties to those of the loss: once, they do not depend on a batch.

    Returns the sum, and the penalties' values as metrics.
    """
    if not penalties:
        return gradients, {}

    def total(trainable):
        params, arrays = states.combine(trainable, frozen), frozen.get("penalties", {})
        values = {
            f"penalty/{label}": value(params, arrays.get(label, {}))
            for label, value in penalties.items()
        }
        return sum(values.values()), values

    own, values = jax.grad(total, has_aux=True)(trainable)
    # A gradient of its own, since penalties see no microbatch; the metric `loss` stays the
    # objective's.
    return jax.tree.map(jnp.add, gradients, own), values


def _with_anchors(metrics: dict, anchors: Anchors, policy, reference, batch, key) -> dict:
    """Add the terms on other data than the objective's."""
    for n, (label, (term, weight)) in enumerate(anchors.items(), 1):
        # A key of its own: the objective's dropout is what it is without anchors.
        found = term(policy, reference, batch["anchors"][label], jax.random.fold_in(key, n))
        loss = (*_terms(metrics), found.scale(weight))
        metrics = metrics | {"loss": loss, f"anchor/{label}": found}
    return metrics


def _with_own_terms(metrics: dict, found: list[dict]) -> dict:
    """Add what the model's family adds to any loss: the mean over the passes that were made."""
    if not found:
        return metrics
    own = functools.reduce(lambda a, b: {name: a[name] + b[name] for name in a}, found)
    return metrics | own | {"loss": (*_terms(metrics), own["loss"])}


def _terms(metrics) -> tuple:
    """The loss is one `Mean`, or a tuple of them to be added, each over its own weight."""
    loss = metrics["loss"]
    return loss if isinstance(loss, tuple) else (loss,)


def _cut(batch, count: int):
    """[B, ...] -> [count, B/count, ...]; row i goes to microbatch i mod count.

    Striding keeps the rows of a device on it, where blocks would move them.
    """
    cut = lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
    return jax.tree.map(cut, batch)


def _sum_over(function: Callable, inputs):
    """Add `function` of every slice of `inputs` along the first axis, one at a time.

    Sums of lower types are float32: the last of many small terms would round away.
    """
    first = jax.eval_shape(lambda xs: function(jax.tree.map(lambda x: x[0], xs)), inputs)
    wide = lambda leaf: jnp.promote_types(leaf.dtype, jnp.float32)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide(leaf)), first)
    add = lambda total, one: (jax.tree.map(jnp.add, total, function(one)), None)
    return jax.lax.scan(add, zeros, inputs)[0]
