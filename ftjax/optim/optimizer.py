"""Any optax optimizer by name, with one order of things around it.

    g <- g * min(1, clip_norm / (|g| + 1e-6))               global norm, as torch clips
    u <- direction(g)                                       optax, learning rate 1, no decay
    w <- w - lr(step) * scale * (u + weight_decay * w + l2sp * (w - w_start))
                                                            decoupled decays (arXiv:1711.05101)
    w <- w + share * (w_start - w)                          every so many steps (`average`)

All of it is float32, also over bfloat16 trainables: gradients and weights are cast on entry, so
the sum w - lr * ... is rounded once, by `optax.apply_updates`. Moments are float32 too, unless
`state_dtype` keeps them in fewer bits between steps, see `ftjax.optim.moments`.
`learning_rate`, `weight_decay`, `clip_norm` may be traced scalars: build the optimizer inside a
`jax.vmap` over members and each member has its own. Adafactor factors and clips a whole stack of
layers as one leaf.

The scale is a group's `lr_scale`, times that of the layer with `layer_decay`.
`average` is sequential fine-tuning with averaging (arXiv:2501.05559). `sam` and the anchors of
`projected` ask for more gradients than the step's: `tx.update` takes them as functions, `gradient`
and `anchors`, see `ftjax.optim.sam` and `ftjax.optim.agem`; they see gradients before they are
clipped.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from ftjax.core import config as conf
from ftjax.core import tree
from ftjax.core.typed import Count, Decay, NonNegative, Patterns, Positive, Share
from ftjax.optim import adalora_budget, agem, moments
from ftjax.optim import galore as low_rank
from ftjax.optim import groups as leaf_groups
from ftjax.optim import layer_decay as layers
from ftjax.optim import sam as sharpness
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


class Optimizer(NamedTuple):
    """An optax transformation and the learning rate that it applies at each step."""

    tx: optax.GradientTransformationExtraArgs
    learning_rate: schedules.Schedule


class State(NamedTuple):
    """Finished steps (int32 scalar), the state of the named optimizer, and where weights began.

    start: float32 like the trainables, where something pulls back there; else None.
    """

    count: jax.Array
    inner: optax.OptState
    start: optax.Params | None = None


class Pull(NamedTuple):
    """How weights are pulled back to where they began; 0 and 0 is not at all."""

    l2sp: float = 0.0  # beside each step, times the learning rate
    share: float = 0.0  # at once, every so many steps and after the last
    every_steps: int = 1
    last: int = 0

    @property
    def acts(self) -> bool:
        """Whether it needs to know where weights began."""
        return bool(self.l2sp or self.share)


def averaging(*, every_steps: Count, share: Share) -> tuple[int, float]:
    """Read the section `average`: how often, and the part of the start in what weights become."""
    return every_steps, share


def make(
    *, name: str, learning_rate: Positive, schedule: str | Mapping, total_steps: int,
    weight_decay: NonNegative = 0.0, no_decay: Patterns = (), clip_norm: Positive | None = None,
    groups: Mapping[str, Mapping] | Iterable[tuple[str, Mapping]] = (),
    ranks: Mapping | None = None, l2sp: NonNegative = 0.0, layer_decay: Share = 1.0,
    average: Mapping | None = None, galore: Mapping | None = None, sam: Mapping | None = None,
    state_dtype: str = "float32", where: str = "optim",
    projected: Mapping[str, float] | None = None,
    depths: Mapping[str, Sequence[int]] | None = None,
    views: Mapping[str, low_rank.View] | None = None, **keywords,
) -> Optimizer:  # fmt: skip
    """Make the optimizer called `name`; `keywords` go to optax (`b1`, `momentum`, `mu_dtype`, ...).

    clip_norm: None switches clipping off. schedule: see `ftjax.optim.schedule`; groups, no_decay:
    see `ftjax.optim.groups`; ranks: the keywords of `ftjax.optim.adalora_budget`, for AdaLoRA;
    l2sp: decay towards the start; average: the keywords of `averaging`; sam: those of `sam`;
    projected: the weights of anchors by label, for `agem`; layer_decay, depths: see the module of
    this name; galore, views: likewise; state_dtype: one of `moments.DTYPES`.
    `tx.init` raises ValueError when a pattern matches no leaf.
    `name` may be a dotted path to a module whose `make(**keywords)` returns a transformation that
    gives minus the direction.
    """
    rate = schedules.make(
        schedule, learning_rate=learning_rate, total_steps=total_steps, where=f"{where}.schedule"
    )
    inner = _kept(name, keywords, weight_decay, state_dtype, where)
    own = dict(weight_decay=weight_decay, no_decay=no_decay, groups=groups, depths=depths)
    settings = lambda params: leaf_groups.settings(tree.paths(params), where=where, **own)
    depth = layers.make(layer_decay, depths) if layer_decay != 1 else _flat
    every, share = conf.call(averaging, average, where=f"{where}.average") if average else (1, 0.0)
    chosen = settings, depth, clip_norm, Pull(l2sp, share, every, total_steps)
    tx = _around(_low_rank(inner, name, galore, views, where), rate, *chosen, where=where)
    if ranks:
        clipped = lambda g: _clipped(g, clip_norm)
        given = dict(inner=tx, total_steps=total_steps, clip=clipped)
        tx = conf.call(adalora_budget.make, ranks, where=f"{where}.ranks", extra=given)
    tx = agem.make(tx, projected or {})
    if sam:
        tx = conf.call(sharpness.make, sam, where=f"{where}.sam", extra={"inner": tx})
    return Optimizer(tx, rate)


def _kept(name: str, keywords: Mapping, weight_decay, state_dtype: str, where: str):
    """Return the named direction with its moments in a type: inside of GaLore's projections."""
    inner = _direction(name, keywords, weight_decay, where)
    return moments.kept_in(inner, state_dtype, name=name, where=where)


def _low_rank(inner, name: str, galore: Mapping | None, views: Mapping | None, where: str):
    """Let the direction see gradients of a low rank, where that is asked for."""
    if not galore:
        return inner
    if name not in low_rank.DIRECTIONS:
        raise ValueError(
            f"{where}.galore: got a value with {name!r}; expected one of "
            f"{conf.listed(low_rank.DIRECTIONS)}, which read gradients alone; choose another name"
        )
    given = dict(inner=optax.with_extra_args_support(inner), views=views or {})
    return conf.call(low_rank.make, galore, where=f"{where}.galore", extra=given)


def _flat(path: str, leaf) -> float:
    """Scale no layer."""
    del path, leaf
    return 1.0


def _around(inner, rate, settings, depth, clip_norm, pull: Pull, *, where: str):
    """Put the cast, the clipping, the decays and the learning rate around a direction."""

    def init(params):
        # optax.tree.map_params looks at the layout with a tree without leaves: nothing to match.
        if tree.paths(params):
            settings(params)
            _check_pull(pull, params, where)
        wide = _float32(params)
        start = jax.tree.map(jnp.copy, wide) if pull.acts else None
        return State(jnp.zeros((), jnp.int32), inner.init(wide), start)

    def update(updates, state, params, **extra):
        updates, params = _clipped(updates, clip_norm), _float32(params)
        moves, inner_state = inner.update(updates, state.inner, params, **extra)
        lr, of = rate(state.count), settings(params)
        if pull.l2sp:
            back = lambda u, w, first: u - pull.l2sp * (w - first)
            moves = jax.tree.map(back, moves, params, state.start)
        # optax's direction has the minus already, and so the decay is subtracted from it.
        scale = lambda path, w: lr * of[path].lr_scale * depth(path, w)
        step = lambda path, u, w: scale(path, w) * (u - of[path].weight_decay * w)
        moves = tree.map_with_paths(step, moves, params)
        count = optax.safe_increment(state.count)
        if pull.share:
            moves = _averaged(moves, params, state.start, count, pull)
        return moves, State(count, inner_state, state.start)

    return optax.GradientTransformationExtraArgs(init, update)


def _averaged(moves, params, start, count: jax.Array, pull: Pull):
    """Move to the average with the start, where it is time."""
    is_time = (count % pull.every_steps == 0) | (count == pull.last)
    share = jnp.where(is_time, pull.share, 0.0)
    return jax.tree.map(lambda u, w, first: u + share * (first - (w + u)), moves, params, start)


def _check_pull(pull: Pull, params, where: str) -> None:
    """Refuse to pull the factors of adapters: that their mean is not the mean of the weights."""
    adapted = sorted(path for path in tree.paths(params) if path.startswith("adapters/"))
    if pull.acts and adapted:
        key, other = ("l2sp", "the penalty l2sp") if pull.l2sp else ("average", "the edit dial")
        raise ValueError(
            f"{where}.{key}: got a value, and {adapted[0]} trains; expected weights of the model "
            f"alone, since factors of adapters are not their change; drop it, or use {other}"
        )


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
    the shape of its parameter lies where the parameter lies, in 8 bits with the scales of its
    blocks; counts and factored moments are on every device. init: what made the state when not
    `tx.init`, as `jax.vmap(tx.init)` for members.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.eval_shape(init or tx.init, params)

    def place(leaf, p, sharding):
        if moments.is_blocks(leaf):
            own = leaf.codes.shape == p.shape
            return moments.placed(leaf, sharding if own else everywhere)
        return sharding if leaf.shape == p.shape else everywhere

    return optax.tree.map_params(
        tx, place, state, params, shardings, is_leaf=moments.is_blocks,
        transform_non_params=lambda leaf: everywhere,
    )  # fmt: skip


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
