"""What every model is made of: declared weights, sites of adapters, the scan over layers.

Modules are NNX definitions: they say which parameters exist, in which shape, and how a block
computes. They are split at once into a graph definition (static) and a plain nested dict of arrays
(see `decoder`). A weight is declared once, by its equation:

    self.q = weight("BTD,DNH->BTNH", sizes)      shape, sharding letters and adapters follow from it
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.core import einsum, rng, tree
from ftjax.core import torch_layout as layout
from ftjax.ops import linear, quantize, remat
from ftjax.ops.visible import Visible

Params = Mapping[str, Any]

# Names of arrays that checkpoints keep beside the parameters: they never train.
BUFFERS = frozenset({"correction", "layer_scalar"})
# What a stack of attention layers caches, S being its slots. Keys stand features first, as the
# scores of one query multiply them. Layers with a state name arrays without S (see `decoder`).
CACHE = {"k": "LBKHS", "v": "LBKSH"}


@dataclasses.dataclass(frozen=True)
class Linear:
    """One linear map of a model: its equation and the shape of one layer's weight.

    `layers` are the numbers of the layers that the axis L of its stack counts, or None for a map
    that exists once (the head, and the embedding, whose equation is `ops.linear.LOOKUP`).
    `inputs_first`: checkpoints keep its weight as (in, out). `in_order`: they keep it with its
    letters out, then in, which fused experts of some families are not.
    """

    equation: str
    shape: tuple[int, ...]
    layers: tuple[int, ...] | None
    inputs_first: bool = False
    in_order: bool = True

    @property
    def stack(self) -> int | None:
        """How many layers are stacked, or None."""
        return None if self.layers is None else len(self.layers)

    @property
    def is_lookup(self) -> bool:
        """Whether the map is an embedding: it takes rows and costs no product."""
        return self.equation == linear.LOOKUP

    @property
    def axes(self) -> str:
        """Letters of one layer's weight."""
        return einsum.parse(self.equation).w


def weight(
    equation: str, sizes: Mapping[str, int], *, key: jax.Array, scale: float,
    inputs_first: bool = False, stored: str = "",
) -> nnx.Param:  # fmt: skip
    """Declare the weight of a linear map, normal with standard deviation `scale`.

    `inputs_first`: checkpoints keep it as (in, out) and not as (out, in). `stored`: they keep it
    with these axes, runs of letters such as "E,CI,D".
    """
    letters = einsum.parse(equation).w
    value = scale * jax.random.normal(key, [sizes[c] for c in letters], jnp.float32)
    if stored:
        # Fused experts lie as each family chose; no rule of (out, in) gives their order.
        own = layout.Layout(tuple(stored.split(",")), letters)
    else:
        own = layout.linear(equation, inputs_first=inputs_first)
    return _declare(value, letters, equation, own, inputs_first=inputs_first)


def table(
    letters: str, sizes: Mapping[str, int], *, key: jax.Array, scale: float, stored: str = ""
) -> nnx.Param:
    """Declare an array that no linear map owns.

    Checkpoints keep it with the same axes, or with those of `stored`, runs of letters.
    """
    value = scale * jax.random.normal(key, [sizes[c] for c in letters], jnp.float32)
    groups = tuple(stored.split(",")) if stored else tuple(letters)
    return _declare(value, letters, "", layout.Layout(groups, letters))


def vector(letters: str, sizes: Mapping[str, int], *, fill: float) -> nnx.Param:
    """Declare a norm's scale or a bias: an array that no linear map owns, flat in checkpoints."""
    value = jnp.full([sizes[c] for c in letters], fill, jnp.float32)
    return _declare(value, letters, "", layout.vector(letters))


def _declare(value, letters, equation, stored: layout.Layout, *, inputs_first=False) -> nnx.Param:
    """Make a parameter with what `metadata` reads of it; `stored` is the axes in a checkpoint."""
    groups = ",".join(stored.groups)
    return nnx.Param(
        value, axes=letters, equation=equation, stored=groups, inputs_first=inputs_first
    )


@dataclasses.dataclass(frozen=True)
class Context:
    """What layers of one kind share in a forward pass: what is seen, rotary tables."""

    visible: Visible  # which keys at hand a query sees
    rotation: tuple[jax.Array, jax.Array] | None  # cosines and sines; None = positions are learned
    segments_BT: jax.Array
    query_factor: jax.Array | None = None  # [B,T,1,1], multiplies rotated queries
    past_BTS: jax.Array | None = None  # of slots in the cache
    virtual: "Context | None" = None  # of a prompt's tokens, which come before
    layer_input: jax.Array | None = None  # [B,T,X], of a family whose layers have one each
    shared: Mapping[str, jax.Array] | None = None  # keys and values of the layer that lends them
    prefix: Mapping[str, jax.Array] | None = None  # keys and values [1,n,K,H] that all queries see


@dataclasses.dataclass(frozen=True)
class Site:
    """Applies a block's linear maps: pairs each weight with its adapter and its key."""

    adapters: Mapping[str, Any]
    key: jax.Array | None

    def __call__(self, name: str, x: jax.Array, param: nnx.Param) -> jax.Array:
        """Apply the map called `name` in the block's tree."""
        # The key is the map's by name: its dropout does not depend on which others have adapters.
        key = None if self.key is None else rng.named(self.key, name)
        equation = param.get_metadata("equation")
        return linear.linear(equation, x, param[...], self.adapters.get(name), key)

    def lookup(self, name: str, tokens_BT: jax.Array, param: nnx.Param) -> jax.Array:
        """Take rows of the embedding called `name`."""
        return linear.lookup(tokens_BT, param[...], self.adapters.get(name))

    def merged(self, name: str, param: nnx.Param, dtype) -> jax.Array:
        """Return the weight of the map called `name` with its adapter in it."""
        # For maps whose weight is taken apart before it is applied, as latent attention does.
        adapter, w = self.adapters.get(name), quantize.dense(param[...], dtype)
        return w if adapter is None else adapter.merge(param.get_metadata("equation"), w)

    def under(self, name: str) -> "Site":
        """Descend into a child of the block."""
        key = None if self.key is None else rng.named(self.key, name)
        return Site(self.adapters.get(name) or {}, key)


def metadata(module: nnx.Module, name: str) -> dict:
    """Read one metadata field of every parameter of an abstract module, as a nested dict."""
    state = nnx.state(module, nnx.Param)
    pick = lambda param: param.get_metadata(name)
    # Params are pytrees themselves: without `is_leaf` only their arrays would be visited.
    return nnx.to_pure_dict(jax.tree.map(pick, state, is_leaf=lambda x: isinstance(x, nnx.Param)))


def linears(module: nnx.Module, *, layers: tuple[int, ...] | None) -> dict[str, Linear]:
    """List the linear maps that an abstract module declares, by path."""
    fields = ("equation", "inputs_first", "stored")
    equations, first, stored = (tree.paths(metadata(module, n)) for n in fields)
    shapes = tree.paths(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    return {
        name: Linear(e, shapes[name].shape, layers, first[name], _in_order(e, stored[name]))
        for name, e in equations.items() if e
    }  # fmt: skip


def _in_order(equation: str, stored: str) -> bool:
    """Return whether experts lie in a checkpoint with their letters out, then in."""
    e, flat = einsum.parse(equation), stored.replace(",", "")
    return not e.shared or flat.removeprefix(e.shared) == e.kept + e.contracted


def scan(layers, x, inputs, *, length: int, policy: str, loop: bool):
    """Run a group of layers over every slice of `inputs` along its leading axis.

    A layer is `(x, one slice) -> (x, output)`; returns x and one output per layer of the group,
    each stacked on the leading axis. What is `tree.Shared` in `inputs` goes to every slice whole.
    `inputs` may be a function `turn=i -> slice i`: a loop around this one then reads every weight
    where it lies, and does not copy them all in each of its turns. It is for what has no backward
    pass, which would add up gradients of whole stacks. `policy` is a name of `ops.remat` and acts
    layer by layer. `loop` unrolls in Python: the definition, for tests.
    """
    if callable(inputs):
        read, inputs = inputs, jnp.arange(length)
        layers = [lambda x, turn, run=layer: run(x, read(turn=turn)) for layer in layers]
    shared, inputs = tree.split_shared(inputs)
    layers = [lambda x, one, run=layer: run(x, tree.combine(one, shared)) for layer in layers]
    if policy != "none":
        # A loop of one turn is no loop to the compiler: nothing keeps it from merging what is made
        # again with what was made before.
        options = dict(policy=remat.POLICIES[policy], prevent_cse=loop or length == 1)
        # Each layer by itself: around a whole group, the backward pass would hold all its layers.
        layers = [jax.checkpoint(remat.entered(layer, policy), **options) for layer in layers]

    def body(x, one):
        outputs = []
        for layer in layers:
            x, output = layer(x, one)
            outputs.append(output)
        return x, outputs

    if not loop:
        return jax.lax.scan(body, x, inputs, length=length)
    outputs = []
    for turn in range(length):
        x, output = body(x, jax.tree.map(lambda leaf, i=turn: leaf[i], inputs))
        outputs.append(output)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


# -- caches ----------------------------------------------------------------------------------------


def empty_cache(letters: Mapping[str, str], sizes: Mapping[str, int], dtype) -> dict:
    """Make a cache of zeros with these letters; in int8 with scales. States are float32."""
    shape = lambda order: [sizes[c] for c in order]
    # What is cached by slot is rounded once; a state would add up its roundings over the row.
    types = {n: dtype if "S" in order else jnp.float32 for n, order in letters.items()}
    cache = {n: jnp.zeros(shape(order), types[n]) for n, order in letters.items()}
    if jnp.dtype(dtype) != jnp.int8:
        return cache
    slotted = {f"{n}_scale": _scale(order) for n, order in letters.items() if "S" in order}
    return cache | {n: jnp.zeros(shape(order), jnp.float32) for n, order in slotted.items()}


def write_cache(cache, new, letters: Mapping[str, str], slots_BT):
    """Write what new tokens have, [L,B,T,...], at their slots; out of range = dropped.

    A state is replaced. The cache may have rows behind those of the new tokens.
    """
    rows_BT = jnp.arange(slots_BT.shape[0])[:, None]
    new, letters, where = *_encode(new, letters, cache), dict(B=rows_BT, S=slots_BT)

    def write(name: str, old):
        order = letters[name]
        if "S" not in order:
            return jax.lax.dynamic_update_slice(old, new[name].astype(old.dtype), (0,) * old.ndim)
        at = tuple(where.get(c, slice(None)) for c in order)
        x = _turn(new[name], order, "BS" + order.replace("B", "").replace("S", ""))
        # Padding has the slot behind the last one, and so has no place to be written to.
        return old.at[at].set(x.astype(old.dtype), mode="drop")

    return {name: write(name, old) for name, old in cache.items()}


def fill_cache(cache, new, letters: Mapping[str, str]):
    """Write what new tokens have, [L,B,T,...], at the first T slots of a cache."""
    new, letters = _encode(new, letters, cache)

    def fill(name: str, old):
        if "S" not in letters[name]:
            return new[name].astype(old.dtype)
        x = _turn(new[name], letters[name], letters[name])
        # A slice and not a scatter: the places are known without looking at the tokens.
        return jax.lax.dynamic_update_slice(old, x.astype(old.dtype), (0,) * old.ndim)

    return {name: fill(name, old) for name, old in cache.items()}


def _encode(new, letters: Mapping[str, str], cache):
    """Round to the steps of an int8 cache: new arrays with their scales, and all letters."""
    scaled = [name for name in letters if f"{name}_scale" in cache]
    found, orders = dict(new), dict(letters)
    for name in scaled:
        # 127 steps on both sides, so that the code -128 is never used and signs are symmetric.
        scale = jnp.abs(new[name]).max(-1).astype(jnp.float32) / 127
        # Vectors of zeros have the scale 0: they stay zeros, and are not NaN.
        found[name] = jnp.round(new[name] / jnp.maximum(scale, 1e-30)[..., None])
        found[f"{name}_scale"], orders[f"{name}_scale"] = scale, _scale(letters[name])
    return found, orders


def _of_new(order: str) -> str:
    """Letters of what new tokens bring: layer, row, token, then what is left of the cache's."""
    return "LBS" + "".join(c for c in order if c not in "LBS")


def _scale(order: str) -> str:
    """Letters of the scales of an int8 cache: one for the last axis of what is new."""
    return order.replace(_of_new(order)[-1], "")


def _turn(new, order: str, letters: str):
    """Return the axes of new tokens, of a cache of letters `order`, the order of `letters`."""
    return new.transpose([_of_new(order).index(c) for c in letters])


def read_cache(cache, dtype) -> tuple[jax.Array, jax.Array]:
    """Return keys [B,K,H,S] and values [B,K,S,H] of a layer in the type of the computation."""
    return read_array(cache, "k", dtype), read_array(cache, "v", dtype, features=-1)


def read_array(cache, name: str, dtype, *, features: int = 2) -> jax.Array:
    """Return an array of a layer's cache in the type of the computation.

    `features` is the axis of its features, which share a scale in an int8 cache.
    """
    x = cache[name]
    if f"{name}_scale" in cache:
        # The scales are float32, so this product is too, and is rounded once below.
        x = x * jnp.expand_dims(cache[f"{name}_scale"], features)
    return x.astype(dtype)
