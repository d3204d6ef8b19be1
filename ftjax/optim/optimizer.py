"""Any optax optimizer by name, with one order of things around it.

    g <- g * min(1, clip_norm / (|g| + 1e-6))               global norm, as torch clips
    u <- direction(g)                                       optax, learning rate 1, no decay
    w <- w - lr(step) * lr_scale * (u + weight_decay * w)   decoupled decay (arXiv:1711.05101)

All of it is float32, also over bfloat16 trainables: gradients and weights are cast on entry, so
the sum w - lr * ... is rounded once, by `optax.apply_updates`. Moments are float32 too, unless
`state_dtype` keeps them in another type between steps.
`learning_rate`, `weight_decay`, `clip_norm` may be traced scalars: build the optimizer inside a
`jax.vmap` over members and each member has its own. Adafactor factors and clips a whole stack of
layers as one leaf.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from ftjax.core import config as conf
from ftjax.core import tree
from ftjax.core.typed import Decay, NonNegative, Patterns, Positive
from ftjax.optim import adalora_budget
from ftjax.optim import groups as leaf_groups
from ftjax.optim import schedule as schedules

# Of optax.contrib those that work on any leaf of a stack of layers with a rate of their own around
# them. Not muon, which would leave stacked weights to Adam without a word; not schedule_free, whose
# weights to evaluate are others than those that train; not sophia and momo, which ask for the loss.
CONTRIB = ("acprop", "ademamix", "adopt", "simplified_ademamix", "prodigy", "dadapt_adamw")
# The learning rate of these does not factor out of the update, or they need more than gradients.
EXCLUDED = ("fromage", "lars", "lbfgs", "noisy_sgd", "optimistic_adam", "rprop")
# These apply weight decay inside the direction, where the decoupled one would be another method.
DECAY_INSIDE = ("adadelta", "adan", "lamb", "novograd", "prodigy", "dadapt_adamw")
# Ranges of keywords that are optax's, whose annotations have none.
RANGES = dict.fromkeys(("b1", "b2", "b3", "beta1", "beta2", "decay", "momentum"), Decay | None) | (
    dict.fromkeys(("eps", "eps_root", "epsilon"), NonNegative)
)

# Of the moments; float16 would lose the small squares of gradients (below 6e-8 there is nothing).
STATE_DTYPES = ("float32", "bfloat16")


class Optimizer(NamedTuple):
    """An optax transformation and the learning rate that it applies at each step."""

    tx: optax.GradientTransformation
    learning_rate: schedules.Schedule


class State(NamedTuple):
    """Finished steps (int32 scalar) and the state of the named optimizer."""

    count: jax.Array
    inner: optax.OptState


def make(
    *,
    name: str,
    learning_rate: Positive,
    schedule: str | Mapping,
    total_steps: int,
    weight_decay: NonNegative = 0.0,
    no_decay: Patterns = (),
    clip_norm: Positive | None = None,
    groups: Mapping[str, Mapping] | Iterable[tuple[str, Mapping]] = (),
    ranks: Mapping | None = None,
    state_dtype: str = "float32",
    where: str = "optim",
    **keywords,
) -> Optimizer:
    """Make the optimizer called `name`; `keywords` go to optax (`b1`, `momentum`, `mu_dtype`, ...).

    clip_norm: None switches clipping off. schedule: see `ftjax.optim.schedule`; groups, no_decay:
    see `ftjax.optim.groups`; ranks: the keywords of `ftjax.optim.adalora_budget`, for AdaLoRA;
    state_dtype: one of STATE_DTYPES. `tx.init` raises ValueError when a pattern matches no leaf.
    `name` may be a dotted path to a module whose `make(**keywords)` returns a transformation that
    gives minus the direction.
    """
    rate = schedules.make(
        schedule, learning_rate=learning_rate, total_steps=total_steps, where=f"{where}.schedule"
    )
    inner = _direction(name, keywords, weight_decay, where)
    options = dict(weight_decay=weight_decay, no_decay=no_decay, groups=groups, where=where)
    settings = lambda params: leaf_groups.settings(tree.paths(params), **options)
    tx = _around(_kept_in(inner, state_dtype, where), rate, settings, clip_norm)
    if ranks:
        clipped = lambda g: _clipped(g, clip_norm)
        given = dict(inner=tx, total_steps=total_steps, clip=clipped)
        tx = conf.call(adalora_budget.make, ranks, where=f"{where}.ranks", extra=given)
    return Optimizer(tx, rate)


def _around(inner, rate, settings, clip_norm) -> optax.GradientTransformation:
    """Put the cast, the clipping, the decay and the learning rate around a direction."""

    def init(params):
        # optax.tree.map_params looks at the layout with a tree without leaves: nothing to match.
        if tree.paths(params):
            settings(params)
        return State(count=jnp.zeros((), jnp.int32), inner=inner.init(_float32(params)))

    def update(updates, state, params):
        updates, params = _clipped(updates, clip_norm), _float32(params)
        moves, inner_state = inner.update(updates, state.inner, params)
        lr, of = rate(state.count), settings(params)
        # optax's direction has the minus already, and so the decay is subtracted from it.
        step = lambda path, u, w: lr * of[path].lr_scale * (u - of[path].weight_decay * w)
        moves = tree.map_with_paths(step, moves, params)
        return moves, State(optax.safe_increment(state.count), inner_state)

    return optax.GradientTransformation(init, update)


def _kept_in(inner, dtype: str, where: str) -> optax.GradientTransformation:
    """Keep the arrays of an optimizer's state in `dtype`; it computes in float32 all the same."""
    if dtype not in STATE_DTYPES:
        legal = conf.listed(STATE_DTYPES)
        raise ValueError(f"{where}.state_dtype: got {dtype!r}; expected one of {legal}")
    if dtype == "float32":
        return inner
    # Scalars, such as an estimated learning rate, take no memory and stay exact.
    is_moment = lambda x: x.ndim > 0 and jnp.issubdtype(x.dtype, jnp.floating)
    cast = lambda state, to: jax.tree.map(lambda x: x.astype(to) if is_moment(x) else x, state)

    def update(updates, state, params):
        moves, state = inner.update(updates, cast(state, jnp.float32), params)
        return moves, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(inner.init(params), dtype), update)


def _clipped(updates, clip_norm):
    """Return gradients as the direction sees them."""
    updates = _float32(updates)
    return updates if clip_norm is None else clip(updates, max_norm=clip_norm)


def hyper(keywords: Mapping) -> list[str]:
    """Return which keywords of `make` may be traced: what is switched on, and decoupled."""
    on = [key for key in ("learning_rate", "clip_norm") if keywords.get(key) is not None]
    # A decay of 0 is left out by the compiler alone if it knows that it is 0.
    decays = keywords.get("weight_decay") and keywords.get("name") not in DECAY_INSIDE
    return [*on, "weight_decay"] if decays else on


def names() -> list[str]:
    """Return the names of the optax optimizers on offer."""
    public = {n: f for n, f in vars(optax).items() if callable(f) and n[0].islower()}
    # An optimizer takes its learning rate first; other functions of optax do not.
    takes_rate = lambda f: next(iter(inspect.signature(f).parameters), None) == "learning_rate"
    found = [
        n
        for n, f in public.items()
        if takes_rate(f) and n not in EXCLUDED and not n.startswith("scale_by")
    ]
    return [*found, *CONTRIB]


def factory(name: str) -> Callable:
    """Return the function of optax or optax.contrib that makes an optimizer on offer."""
    return vars(optax.contrib if name in CONTRIB else optax)[name]


def clip(updates, *, max_norm: jax.typing.ArrayLike):
    """Scale a tree so that its global norm is at most `max_norm`: torch's clip_grad_norm_."""
    norm = optax.tree.norm(updates)
    # 1e-6 as in torch: clipped runs agree with its own.
    factor = jnp.minimum(1.0, max_norm / (norm + 1e-6))
    return jax.tree.map(lambda u: u * factor, updates)


def state_shardings(
    tx: optax.GradientTransformation, params, shardings, *, init: Callable | None = None
):
    """Return a sharding for every leaf of the optimizer state, for `out_shardings` and restoring.

    params: abstract (or real) trainables; shardings: a NamedSharding for each of them. A moment of
    the shape of its parameter lies where the parameter lies; counts and factored moments are on
    every device. init: what made the state when not `tx.init`, as `jax.vmap(tx.init)` for members.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.eval_shape(init or tx.init, params)
    place = lambda leaf, p, sharding: sharding if leaf.shape == p.shape else everywhere
    return optax.tree.map_params(
        tx, place, state, params, shardings, transform_non_params=lambda leaf: everywhere
    )


def _direction(name: str, keywords: Mapping, weight_decay, where: str):
    """Return the named transformation with learning rate 1 and no weight decay of its own."""
    if "." in name:
        make = conf.attribute(name, "optim", where=f"{where}.name")
        return conf.call(make, keywords, where=where)
    if name not in names():
        fix, legal = conf.nearest(name, names()), conf.listed(names())
        raise ValueError(f"{where}.name: got {name!r}; {fix}expected one of {legal}")
    if name in DECAY_INSIDE and not (isinstance(weight_decay, int | float) and weight_decay == 0):
        raise ValueError(
            f"{where}.weight_decay: got {weight_decay!r}; expected 0.0 with {name!r}, whose own "
            "decay is not decoupled; use adamw or lion, or drop it"
        )
    for key in keywords.keys() & RANGES.keys():
        conf.check(keywords[key], RANGES[key], where=f"{where}.{key}")
    # Rate and decay are applied outside, where groups scale them leaf by leaf.
    extra = {"learning_rate": 1.0, "weight_decay": 0.0}
    return conf.call(factory(name), keywords, where=where, extra=extra)


def _float32(params):
    wide = lambda p: p.astype(jnp.promote_types(p.dtype, jnp.float32))
    return jax.tree.map(wide, params)
