"""Edits after training: params -> params, without a step, each off at its zero.

    interpolate(base, tuned, 0.5)     (1 - a) base + a tuned, WiSE-FT         arXiv:2109.01903
    dial(adapters, 0.5)               its own dial: a LoRA scales, an OFT turns less
    soup([a, b, c])                   the mean                                arXiv:2203.05482
    ties(base, [a, b])                see `adapters.multi.merging`            arXiv:2306.01708
    dare(base, [a, b], key=key)       likewise                                arXiv:2311.03099
    reduce_intruders(base, tuned, linears, strength=0.75)                     arXiv:2410.21228

Weights are trees of arrays; sums are made in float32 and rounded once. An edit whose strength is
zero returns its input itself, and so the same bits.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.adapters.fourierft import FourierFT
from ftjax.adapters.lib import protocol
from ftjax.adapters.loha import LoHa
from ftjax.adapters.lokr import LoKr
from ftjax.adapters.lora import LoRA, OffsetLoRA
from ftjax.adapters.multi import merging
from ftjax.adapters.oft import OFT
from ftjax.core import tree
from ftjax.evals.lib import spectrum
from ftjax.ops import lowrank, quantize


def interpolate(base, tuned, amount: float):
    """Compute (1 - amount) base + amount tuned: 0 is the base, 1 the tuned model, bit for bit.

    Also an average with an earlier checkpoint, `interpolate(earlier, tuned, 1 - share)`. Amounts
    outside [0, 1] extrapolate.

    Raises:
      ValueError: the trees differ, or weights are quantised.
    """
    _finite("amount", amount)
    _alike(base, tuned)
    if amount in (0, 1):
        return tuned if amount else base

    def one(w0, w):
        # Rounded once, from float32: in bfloat16 both products and their sum would be rounded.
        mixed = (1 - amount) * w0.astype(jnp.float32) + amount * w.astype(jnp.float32)
        return mixed.astype(w.dtype)

    return jax.tree.map(one, base, tuned)


def dial(adapters: Mapping[str, Any], amount: float):
    """Turn every adapter to a part of what it does, along its own path; 0 is the base, 1 no edit.

    A LoRA's change of the weight is scaled. An OFT turns by less, R(amount Q), and stays a rotation
    on the way, which an interpolation of the merged weights does not.

    Raises:
      ValueError: an adapter without such a dial, such as DoRA, whose lengths stay.
    """
    _finite("amount", amount)
    if amount == 1:
        return adapters

    def one(keys, adapter):
        if type(adapter) not in DIALS:
            raise ValueError(
                f"adapters/{tree.path_name(keys)}: got a {type(adapter).__name__}; expected one of "
                f"{', '.join(kind.__name__ for kind in DIALS)}, which have a dial; interpolate the "
                "merged weights instead"
            )
        return DIALS[type(adapter)](adapter, amount)

    return jax.tree_util.tree_map_with_path(one, adapters, is_leaf=protocol.is_adapter)


def _scaled(adapter, amount: float):
    """Scale what is added to the weight."""
    return dataclasses.replace(adapter, scale=adapter.scale * amount)


def _turned(adapter, amount: float):
    """Scale the generator of a rotation: 0 is none, and all between are rotations."""
    return dataclasses.replace(adapter, q=adapter.q * amount)


# By class, not by name: a method that computes as a LoRA is scaled as one.
DIALS = {
    LoRA: _scaled, OffsetLoRA: _scaled, LoHa: _scaled, LoKr: _scaled, FourierFT: _scaled,
    OFT: _turned,
}  # fmt: skip


def soup(tuned: Sequence[Any], weights: Sequence[float] | None = None):
    """Average models, with weights that sum to 1 (equal ones if not given); one alone is itself.

    Raises:
      ValueError: no model, weights that do not sum to 1, trees that differ.
    """
    if not tuned:
        raise ValueError("soup: got no model; expected at least one")
    shares = [1 / len(tuned)] * len(tuned) if weights is None else list(weights)
    # 1e-6: shares such as thirds sum to 1 only up to rounding.
    if len(shares) != len(tuned) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(
            f"weights: got {shares} for {len(tuned)} models; expected one each, with the sum 1"
        )
    for other in tuned:
        _alike(tuned[0], other)
    if len(tuned) == 1:
        return tuned[0]

    # In float32 and rounded once: a bfloat16 sum would round at every model.
    def one(first, *others):
        wide = (s * w.astype(jnp.float32) for s, w in zip(shares, (first, *others), strict=True))
        return sum(wide).astype(first.dtype)

    return jax.tree.map(one, *tuned)


def ties(
    base, tuned: Sequence[Any], *, density: float = 0.2, strength: float = 1.0, sign: str = "total"
):  # fmt: skip
    """Add the mean of those changes that agree in sign, each cut to its largest entries.

    density: the part of every array's entries that is kept; strength 0 is the base itself.
    """
    return _merged(base, tuned, strength, share=1.0, kind="ties", density=density, sign=sign)


def dare(
    base, tuned: Sequence[Any], *, key: jax.Array, drop: float = 0.9, strength: float = 1.0
):  # fmt: skip
    """Add the mean of the changes, of which a random part `drop` is left out and the rest scaled.

    What is kept is divided by 1 - drop, so that the expected change stays.
    """
    # `dare_linear` adds up what it is given, where ties takes a mean by itself.
    share = 1 / max(len(tuned), 1)
    return _merged(
        base, tuned, strength, share=share, kind="dare_linear", density=1 - drop, key=key
    )


def _merged(base, tuned, strength: float, *, share: float, **options):
    _finite("strength", strength)
    for other in tuned:
        _alike(base, other)
    if strength == 0:
        return base
    return merging.models(base, tuned, [strength * share] * len(tuned), **options)


def reduce_intruders(
    base, tuned, linears: Mapping[str, Any], *, strength: float = 0.75, **options
):  # fmt: skip
    """Scale the intruders of every linear map down to `strength` of their size; 1 is no edit.

    Args:
      base, tuned: weights without adapters: merge them first.
      linears: the model's linear maps by path; other weights stay, and so do those whose matrices
        have no intruder, bit for bit.
      options: side, top and threshold of `spectrum.intruders`; one null level is found per shape.

    Raises:
      ValueError: the trees differ, or the threshold is too near to the null level of a shape.
    """
    _finite("strength", strength)
    _alike(base, tuned)
    if strength == 1:
        return tuned
    changed = {}
    for each in spectrum.layers(base, tuned, linears):
        sides = each.before, each.after
        # Asked first: what has none stays bit for bit, which a sum of outer products does not.
        if spectrum.intruders(*sides, **options).ranks:
            less = spectrum.reduce_intruders(*sides, strength=strength, **options)
            changed.setdefault(each.path, {})[each.index] = less
    place = lambda path, w: _placed(linears[path], w, changed[path]) if path in changed else w
    return tree.map_with_paths(place, tuned)


def _placed(site, w, changed: Mapping[int, Any]):
    """Put matrices [in, out] into a weight by their index over layers, then shared letters."""
    one = lambda w: lowrank.matrix(site.equation, w)
    whole = one if site.layers is None else jax.vmap(one)
    # Wide before it is cut up: entries that no matrix replaces come back as they were.
    found, back = jax.vjp(whole, w.astype(jnp.float32))
    flat = found.reshape(-1, *found.shape[-2:])
    for index, matrix in changed.items():
        flat = flat.at[index].set(jnp.asarray(matrix, jnp.float32))
    # A view only moves entries, so that its transpose, the vjp, moves them back.
    return back(flat.reshape(found.shape))[0].astype(w.dtype)


def _finite(key: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{key}: got {value}; expected a finite number, such as 0.5")


def _alike(base, tuned) -> None:
    is_leaf = quantize.is_quantized
    old, new = ({path: x.shape for path, x in tree.paths(each).items()} for each in (base, tuned))
    if old != new:
        wrong = sorted(path for path in {**old, **new} if old.get(path) != new.get(path))
        raise ValueError(
            f"models: got two that differ in {', '.join(wrong[:4])}; expected the same weights and "
            "shapes; merge adapters first, and edit models of one architecture"
        )
    if quantized := [x for x in jax.tree.leaves(tuned, is_leaf=is_leaf) if is_leaf(x)]:
        raise ValueError(
            f"models: got {len(quantized)} quantised weights; expected arrays, which can be mixed; "
            "merge them into a model first"
        )
