"""What an adapter is: a value (a pytree of arrays) whose meaning is a pure function on a weight.

A method is one file with `make(**hyper) -> init(key, linear, w) -> adapter` and a registered
dataclass that offers

    merge(equation, w) -> w'             the definition
    apply(equation, x, w, key) -> y      contract(equation, x, merge(equation, w)), or faster
    apply_alone(equation, x, w, key) -> y      the same for one of many adapters of a weight
    apply_rows(equation, x, w, contract, key) -> y      the same over rows grouped by expert
    lookup(tokens, w) -> x               rows of merge(LOOKUP, w): on an embedding, or faster
    axes(equation) -> adapter            letters of its own arrays, for sharding
    FROZEN                               fields that are data and never train

Adapters live in a tree that mirrors the model's parameters and has an adapter where a linear map is
adapted: {"blocks": {"attn": {"q": LoRA(a, b, scale)}}}, its arrays stacked on L like the weights.
A method's `init` wraps an array that exists once for all layers of a stack as `tree.Shared(x)`; it
must not depend on the layer's key or weight. The adapter's other methods see it unwrapped.

Prompt and prefix tuning change no weight. Their `make` returns an `OfModel`, and the tree has their
one adapter under its own name: {"prompt": Prompt(embeddings)}.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ftjax.core import rng, tree
from ftjax.ops import fast, linear, quantize


class Adapter:
    """Defaults of the protocol; subclasses are registered dataclasses of arrays."""

    FROZEN: ClassVar[tuple[str, ...]] = ()
    MERGES: ClassVar[bool] = True  # False: it changes no weight, so there is no merged one
    PADS: ClassVar[bool] = False  # True: zeros that make the axes R longer change nothing

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Return the weight that this adapter makes of `w`: the definition of the method."""
        raise NotImplementedError

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply the adapted map to `x`."""
        return fast.contract(equation, x, self.merge(equation, w))

    def apply_alone(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply to one row of a batch, whose others have adapters of their own."""
        return self.apply(equation, x, w, key)

    def apply_rows(self, equation: str, x: jax.Array, w: jax.Array, contract: Callable, key=None):
        """Apply the adapted map to rows grouped by expert.

        `x` [rows, contracted letters] stands for the letters EBTD of the equation, and
        `contract(equation, x, w)` computes it over the groups.
        """
        return contract(equation, x, self.merge(equation, w))

    def lookup(self, tokens_BT: jax.Array, w_VD: jax.Array) -> jax.Array:
        """Take rows of an adapted embedding."""
        return self.merge(linear.LOOKUP, w_VD)[tokens_BT]

    def axes(self, equation: str) -> "Adapter":
        """Return an adapter of letter strings in place of arrays, `Shared` where they are."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class OfModel:
    """A method that adapts the model and no weight of it: its place in the tree, its initialiser.

    `init(key, sizes, weights) -> adapter`, with the model's sizes by letter.
    """

    name: str
    init: Callable


@dataclasses.dataclass(frozen=True)
class Informed:
    """A method whose adapters start from more than a weight: LoftQ, EVA, LoRA-GA.

    needs: of what, "quantizer", "inputs" or "gradient"; see `starts`.
    init(key, linear, w, factors) -> adapter: of one layer, around factors a and b that were found;
      without them (None) they are zero, which adapts nothing.
    options: rank and what else the finder has to know.
    """

    needs: str
    init: Callable
    options: Mapping[str, Any]


def check_tokens(count: int) -> None:
    """Raise ValueError when there are no virtual tokens."""
    if count < 1:
        raise ValueError(f"adapter.tokens: got {count}; expected at least 1")


def is_adapter(node: Any) -> bool:
    """Return whether a node is an adapter: the `is_leaf` of maps over trees of adapters."""
    return isinstance(node, Adapter)


def init(
    method: Callable | OfModel, key: jax.Array, linears: Mapping[str, Any],
    weights: Mapping[str, Any], *, where: str | Iterable[str],
    groups: Iterable[tuple[str, Callable]] = (), sizes: Mapping[str, int] | None = None,
    found: Mapping[str, Any] | None = None,
) -> dict:  # fmt: skip
    """Initialise adapters at every linear map whose path matches `where`.

    Args:
      method: `init(key, linear, w) -> adapter` of one layer, as a method's `make` returns it.
      key: each site derives its own from its path, so one more site changes no other.
      linears: the model's linear maps by path.
      weights: the model's parameters.
      where: patterns over these paths; empty for a method that is `OfModel`.
      groups: (pattern, method) pairs: the same method with other settings at some of the paths, a
        later pair before an earlier one.
      sizes: the model's sizes by letter, which a method that is `OfModel` needs.
      found: factors (a, b) by path, on L where stacked, which a method that is `Informed` needs.

    Raises:
      ValueError: a pattern matches nothing, or there are patterns for such a method.
    """
    if isinstance(method, OfModel):
        return _of_model(method, key, weights, where=where or tuple(groups), sizes=sizes)
    arrays, result = tree.paths(weights), {}
    for path, own in methods_at(method, linears, where=where, groups=groups).items():
        given = (arrays[path], (found or {}).get(path)) if is_informed(own) else (arrays[path],)
        one = own.init if is_informed(own) else own
        insert(result, path, _at(linears[path], one, rng.named(key, path), *given))
    return result


def methods_at(method: Callable, linears: Mapping[str, Any], *, where, groups=()) -> dict:
    """List the initialiser of every site, by path; the arguments are those of `init`."""
    chosen = dict.fromkeys(sorted(tree.select(where, linears, where="adapter.where")), method)
    for pattern, other in groups:
        chosen |= dict.fromkeys(tree.select(pattern, chosen, where="adapter.groups"), other)
    return chosen


def is_informed(method: Any) -> bool:
    """Return whether a method starts from more than a weight."""
    return isinstance(method, Informed)


def _at(site, method: Callable, key: jax.Array, *given) -> Adapter:
    """Initialise the adapter of one linear map, of all its layers where it is stacked."""
    one = lambda key, *given: method(key, site, *given)
    if site.stack is None:
        return tree.unshared(one(key, *given))
    abstract = jax.eval_shape(one, key, *jax.eval_shape(lambda x: jax.tree.map(_first, x), given))
    stacked = jax.vmap(one, out_axes=tree.layer_axes(abstract))
    return stacked(jax.random.split(key, site.stack), *given)


def _first(leaf):
    return leaf[0]


def _of_model(method: OfModel, key: jax.Array, weights, *, where, sizes) -> dict:
    if where:
        raise ValueError(
            f"adapter.where: got {where!r}; expected ''; a {method.name} changes no weight"
        )
    return {method.name: method.init(rng.named(key, method.name), sizes, weights)}


def insert(nested: dict, path: str, value: Any) -> None:
    """Put `value` at `a/b/c` of a nested dict, making the dicts on the way."""
    *parents, name = path.split("/")
    for parent in parents:
        nested = nested.setdefault(parent, {})
    nested[name] = value


def sites(adapters: Mapping[str, Any]) -> dict[str, Adapter]:
    """List the adapters of a tree by the path of the weight that each changes."""
    found = jax.tree_util.tree_flatten_with_path(adapters, is_leaf=is_adapter)[0]
    return {tree.path_name(keys): adapter for keys, adapter in found}


def axes(adapters: Mapping[str, Any], linears: Mapping[str, Any]) -> dict:
    """Return the letters of every adapter array, in the structure of `adapters`."""
    result: dict = {}
    for path, adapter in sites(adapters).items():
        if not adapter.MERGES:
            result[path] = adapter.axes("")
            continue
        site = linears[path]
        stack = "" if site.stack is None else "L"
        letters = adapter.axes(site.equation)
        letters = tree.unshared(letters) if site.stack is None else letters
        insert(result, path, tree.map_stacked(lambda own, stack=stack: stack + own, letters))
    return result


def frozen_paths(adapters: Mapping[str, Any], *, prefix: str) -> set[str]:
    """List the paths of adapter arrays that are data and never train."""
    return {
        f"{prefix}/{path}/{field}"
        for path, adapter in sites(adapters).items()
        for field in adapter.FROZEN
    }


def merge(
    weights: Mapping[str, Any], adapters: Mapping[str, Any], linears: Mapping[str, Any], *,
    dtype=None,
):  # fmt: skip
    """Merge every adapter into its weight: a model without adapters that computes the same.

    The merge runs in float32 and rounds once, to `dtype` or the weight's own; what is quantised
    becomes an array, float32 without a `dtype`.

    Raises:
      ValueError: one changes no weight.
    """
    found = sites(adapters)
    for path, adapter in found.items():
        if not adapter.MERGES:
            raise ValueError(
                f"adapters/{path}: got a {type(adapter).__name__} to merge; expected adapters of "
                "weights; it changes none and has to stay an adapter"
            )

    def one(path, w):
        w = quantize.dense(w, jnp.float32)
        kind = dtype or w.dtype
        if path not in found:
            return w.astype(kind)
        site, adapter = linears[path], found[path]
        merged = lambda adapter, w: tree.unshared(adapter).merge(site.equation, w)
        if site.stack is not None:
            merged = jax.vmap(merged, in_axes=(tree.layer_axes(adapter), 0))
        return merged(adapter, w.astype("float32")).astype(kind)

    return tree.map_with_paths(one, weights, is_leaf=quantize.is_quantized)
