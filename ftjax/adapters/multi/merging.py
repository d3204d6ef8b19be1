"""Several fine-tunings in one: adapters added with weights, or merged; whole models likewise.

    adapters([a, b], [0.7, -0.4], kind="svd", linears=model.linears, rank=4)
    models(base, [x, y], [0.5, 0.5], kind="ties", density=0.2)

Of changes d_i with weights c_i:

    cat              sum of c_i d_i, exact: factors side by side, ranks add
    linear           sum of c_i x_i
    magnitude_prune  the same of each x_i's largest entries, a part `density` of them
    dare_linear      the same of random entries, divided by the density        arXiv:2311.03099
    ties, dare_ties  mean of those that agree with the majority's sign         arXiv:2306.01708
    svd, <kind>_svd  x is the change of a weight; the result is cut to `rank`

Without _svd, x is each factor by itself, a with sign(c s) sqrt|c s| and b with sqrt|c s|, s the
adapter's scale: then a b has cross terms. So does PEFT; of whole models x is the change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.adapters.lora import LoRA
from ftjax.core import config as conf
from ftjax.core import einsum, rng, tree
from ftjax.ops import decompositions, lowrank, products

PLAIN = ("linear", "magnitude_prune", "dare_linear", "dare_ties", "ties")
KINDS = ("cat", "svd", *PLAIN, *(f"{kind}_svd" for kind in PLAIN[1:]))
SIGNS = ("total", "frequency")


def adapters(
    found: Sequence[Mapping[str, Any]], weights: Sequence[float], *, kind: str,
    linears: Mapping[str, Any], rank: int | None = None, density: float | None = None,
    sign: str = "total", key: jax.Array | None = None,
) -> dict:  # fmt: skip
    """Combine trees of LoRA adapters into one tree of LoRA adapters of scale 1.

    Args:
      found, weights: the trees and what each counts; a site that one lacks takes those it has.
      kind: see the module. linears: the model's linear maps by path.
      rank: of the result, with svd. density: the part of the entries that is kept, with pruning.
      sign: "total", the sign of the sum, or "frequency", of the sum of signs. key: for DARE.

    Raises:
      ValueError: naming the argument.
    """
    _check(found, weights, kind, density, sign, key)
    if kind.endswith("svd") and not rank:
        raise ValueError(f"rank: got {rank} with kind={kind!r}; expected that of the result")
    sites, result = [protocol.sites(one) for one in found], {}
    for path in dict.fromkeys(path for one in sites for path in one):
        own = [(one[path], c) for one, c in zip(sites, weights, strict=True) if path in one]
        _check_lora(path, [adapter for adapter, _ in own])
        equation, stacked = linears[path].equation, linears[path].stack is not None
        triples, shares = [(x.a, x.b, x.scale) for x, _ in own], [c for _, c in own]
        options = dict(
            density=density, sign=sign, key=None if key is None else rng.named(key, path)
        )
        one = lambda found, e=equation, c=shares, o=options: _one(e, found, c, kind, rank, o)
        a, b = jax.vmap(one)(triples) if stacked else one(triples)
        protocol.insert(result, path, LoRA(a, b, jnp.ones_like(own[0][0].scale)))
    return result


def _one(equation: str, found, shares, kind: str, rank: int | None, options):
    """Combine the factors of one layer: triples a, b, scale."""
    e = einsum.lora(equation)
    parts = jnp.stack([scale * c for (_, _, scale), c in zip(found, shares, strict=True)])
    if kind == "cat":
        a = jnp.concatenate([a * c for (a, _, _), c in zip(found, parts, strict=True)], -1)
        return a, jnp.concatenate([b for _, b, _ in found], e.b.index("R"))
    if not kind.endswith("svd"):
        root = jnp.sqrt(jnp.abs(parts))
        a = mix([a for a, _, _ in found], jnp.sign(parts) * root, kind=kind, **options)
        return a, mix([b for _, b, _ in found], root, kind=kind, **options)
    changes = [scale * products.einsum(e.weight, a, b) for a, b, scale in found]
    inner = kind.removesuffix("svd").removesuffix("_") or "linear"
    return _factors(equation, mix(changes, jnp.asarray(shares), kind=inner, **options), rank)


def _factors(equation: str, delta: jax.Array, rank: int):
    """Cut the change of a weight to its largest singular triplets."""
    rank = min(rank, *lowrank.sides(equation, delta.shape))
    u, s, v = decompositions.svd(lowrank.matrix(equation, delta))
    a, b = u[..., :rank], s[..., :rank, None] * v[..., :rank, :]
    return lowrank.factors(equation, delta.shape, a, b)


def models(
    start, tuned: Sequence[Any], weights: Sequence[float], *, kind: str,
    density: float | None = None, sign: str = "total", key: jax.Array | None = None,
):  # fmt: skip
    """Add to a model a combination of what fine-tunings of it changed (arXiv:2212.04089).

    `kind` is one without cat and svd; every array is pruned by itself.
    """
    if kind not in PLAIN:
        raise ValueError(f"kind: got {kind!r}; expected one of {', '.join(PLAIN)}")
    _check(tuned, weights, kind, density, sign, key)
    shares = jnp.asarray(weights, jnp.float32)

    def one(path, w, *others):
        wide = w.astype(jnp.float32)
        own = None if key is None else rng.named(key, path)
        changes = [other.astype(jnp.float32) - wide for other in others]
        moved = mix(changes, shares, kind=kind, density=density, sign=sign, key=own)
        return (wide + moved).astype(w.dtype)

    return tree.map_with_paths(one, start, *tuned)


def mix(arrays, weights: jax.Array, *, kind: str, density=None, sign="total", key=None):
    """Combine arrays of one shape by one of the plain kinds."""
    stacked = jnp.stack(arrays)
    shares = weights.reshape(-1, *(1,) * (stacked.ndim - 1))
    if kind.startswith("dare"):
        stacked = stacked * jax.random.bernoulli(key, density, stacked.shape) / density
    elif kind != "linear":
        stacked = jax.vmap(lambda x: _largest(x, density))(stacked)
    if not kind.endswith("ties"):
        return (shares * stacked).sum(0)
    votes = stacked if sign == "total" else jnp.sign(stacked)
    agrees = jnp.sign(stacked) == jnp.where(votes.sum(0) >= 0, 1, -1)  # a draw is positive
    return (shares * stacked * agrees).sum(0) / jnp.maximum(agrees.sum(0), 1)


def _largest(x: jax.Array, density: float) -> jax.Array:
    """Keep the entries of the largest magnitude, a part `density` of them."""
    places = jnp.argsort(jnp.argsort(-jnp.abs(x).reshape(-1))).reshape(x.shape)
    return jnp.where(places < int(density * x.size), x, 0)


def _check(found, weights, kind: str, density, sign: str, key) -> None:
    if kind not in KINDS:
        hint = conf.nearest(kind, KINDS)
        raise ValueError(f"kind: got {kind!r}; {hint}expected one of {', '.join(KINDS)}")
    if len(found) != len(weights) or not found:
        raise ValueError(f"weights: got {len(weights)} for {len(found)}; expected one for each")
    prunes = kind not in ("cat", "svd", "linear")
    if prunes and not 0 < (density or 0) <= 1:
        raise ValueError(f"density: got {density} with kind={kind!r}; expected 0 < density <= 1")
    if sign not in SIGNS:
        raise ValueError(f"sign: got {sign!r}; expected one of {', '.join(SIGNS)}")
    if kind.startswith("dare") and key is None:
        raise ValueError(f"key: got none with kind={kind!r}; expected one, the entries are drawn")


def _check_lora(path: str, found) -> None:
    for adapter in found:
        if not isinstance(adapter, LoRA):
            raise ValueError(
                f"adapters/{path}: got a {type(adapter).__name__}; expected a LoRA, whose factors "
                "can be combined; merge the adapters into models and combine these"
            )
