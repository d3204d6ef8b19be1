"""AdaLoRA's budget of ranks (arXiv:2303.10512), around any optimizer.

Every rank of an adapter with factors a, e, b has a score: how much the loss depends on it,

    I = |w * g|        averaged over steps (beta1), times its averaged deviation (beta2)
    score = I(e) + mean I(column of a) + mean I(row of b)

where g is the clipped gradient dL/dw, as PEFT reads it after the step; the e of all but the
`budget` highest scores of the whole model are set to zero. The budget is that of all ranks for
`init_steps`, falls as a cubic to `target_rank` per weight, and what is left `final_steps` before
the end stays. Between allocations (`every_steps`) a zeroed e may come back.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftjax.core import tree
from ftjax.core.typed import Count, Decay, Natural


class State(NamedTuple):
    """The state of the optimizer inside; averages, in the structure of the parameters; the mask."""

    count: jax.Array
    inner: Any
    importance: Any
    deviation: Any
    kept: Any  # of an e: 1 where the last allocation kept it


def make(
    inner: optax.GradientTransformation, *, target_rank: Count, total_steps: int,
    init_steps: Natural = 0, final_steps: Natural = 0, every_steps: Count = 1,
    beta1: Decay = 0.85, beta2: Decay = 0.85, clip: Callable = lambda gradients: gradients,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
    """Put the budget around `inner`, which does by itself what `clip` does to gradients.

    Raises:
      ValueError: the phases do not fit into the steps; or, at `init`, no adapter has ranks to give.
    """
    _check(target_rank, every_steps, init_steps, final_steps, total_steps)
    last, inner = total_steps - final_steps, optax.with_extra_args_support(inner)

    def init(params):
        if tree.paths(params):  # optax looks at the layout with a tree without leaves
            _triplets(params)
        full = lambda x: jax.tree.map(lambda p: jnp.full(p.shape, x, jnp.float32), params)
        return State(jnp.int32(0), inner.init(params), full(0), full(0), full(1))

    def update(updates, state, params, **extra):
        step = state.count + 1
        moves, inner_state = inner.update(updates, state.inner, params, **extra)
        new = jax.tree.map(jnp.add, params, moves)
        now = jax.tree.map(lambda w, g: jnp.abs(w * g), new, clip(updates))
        importance = _mix(state.importance, now, beta1)
        apart = jax.tree.map(lambda x, mean: jnp.abs(x - mean), now, importance)
        deviation = _mix(state.deviation, apart, beta2)
        scores = jax.tree.map(jnp.multiply, importance, deviation)
        budget = _budget(step, _triplets(params), target_rank, init_steps, last)
        # The last one is at `last` whatever every_steps is, for what it keeps stays.
        allocate = (step > init_steps) & (step < last) & (step % every_steps == 0) | (step == last)
        fresh = _keep(scores, budget)
        pick = lambda path, old: jnp.where(allocate, fresh.get(path, old), old)
        kept = tree.map_with_paths(pick, state.kept)
        hold = allocate | (step > last)
        cut = lambda u, w, mask: jnp.where(hold & (mask == 0), -w, u).astype(u.dtype)
        moves = jax.tree.map(cut, moves, params, kept)
        return moves, State(step, inner_state, importance, deviation, kept)

    return optax.GradientTransformationExtraArgs(init, update)


def _check(target_rank, every_steps, init_steps, final_steps, total_steps) -> None:
    if target_rank < 1 or every_steps < 1 or init_steps + final_steps >= total_steps:
        raise ValueError(
            f"optim.ranks: got target_rank {target_rank}, every_steps {every_steps}, init_steps "
            f"{init_steps} + final_steps {final_steps} of {total_steps} steps; expected at least 1 "
            "and 1, and steps left between them"
        )


def _mix(old, new, beta: float):
    return jax.tree.map(lambda x, y: beta * x + (1 - beta) * y, old, new)


def _triplets(params) -> dict[str, tuple]:
    """Find the arrays a, e and b of every adapter that has them, by its path."""
    arrays = tree.paths(params)
    parents = [path.removesuffix("/e") for path in arrays if path.endswith("/e")]
    found = {p: tuple(arrays.get(f"{p}/{name}") for name in "aeb") for p in parents}
    if not found or any(x is None for xs in found.values() for x in xs):
        raise ValueError(
            "optim.ranks: got parameters without the factors a, e, b; expected adapter.name = "
            "'adalora' and all of them to train; drop optim.ranks"
        )
    return found


def _budget(step, triplets, target_rank: int, first: int, last: int) -> jax.Array:
    """Compute how many ranks of the model are kept after a step."""
    total = sum(e.size for _, e, _ in triplets.values())
    target = sum(target_rank * (e.size // e.shape[-1]) for _, e, _ in triplets.values())
    left = jnp.clip(1 - (step - first) / max(last - first, 1), 0, 1) ** 3
    return jnp.floor(min(target, total) + (total - min(target, total)) * left).astype(jnp.int32)


def _keep(scores, budget: jax.Array) -> dict[str, jax.Array]:
    """Mark the e with the highest scores, `budget` of them, by path."""
    joint = {}
    for path, (a, e, b) in _triplets(scores).items():
        per_column = a.reshape(*e.shape[:-1], -1, e.shape[-1]).mean(-2)
        joint[f"{path}/e"] = e + per_column + b.reshape(*e.shape, -1).mean(-1)
    flat = jnp.concatenate([score.reshape(-1) for score in joint.values()])
    place = jnp.argsort(jnp.argsort(-flat))  # 0 is the highest; ties have an order
    keep, start = {}, 0
    for path, score in joint.items():
        own = place[start : start + score.size].reshape(score.shape)
        keep[path], start = (own < budget).astype(jnp.float32), start + score.size
    return keep
