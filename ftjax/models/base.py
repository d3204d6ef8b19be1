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
from ftjax.ops import linear, remat

Params = Mapping[str, Any]

# A cache: keys stand features first, as the scores of one query multiply them.
CACHE = {"k": "LBKHS", "v": "LBKSH", "k_scale": "LBKS", "v_scale": "LBKS"}
NEW = ("k", "v")  # of tokens at hand, [L,B,T,K,H]


@dataclasses.dataclass(frozen=True)
class Linear:
    """One linear map of a model: its equation and the shape of one layer's weight.

    `layers` are the numbers of the layers that the axis L of its stack counts, or None for a map
    that exists once (the head, and the embedding, whose equation is `ops.linear.LOOKUP`).
    `inputs_first`: checkpoints keep its weight as (in, out).
    """

    equation: str
    shape: tuple[int, ...]
    layers: tuple[int, ...] | None
    inputs_first: bool = False

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
    inputs_first: bool = False,
) -> nnx.Param:  # fmt: skip
    """Declare the weight of a linear map, normal with standard deviation `scale`.

    `inputs_first`: checkpoints keep it as (in, out) and not as (out, in).
    """
    letters = einsum.parse(equation).w
    value = scale * jax.random.normal(key, [sizes[c] for c in letters], jnp.float32)
    stored = layout.linear(equation, inputs_first=inputs_first)
    return _declare(value, letters, equation, stored, inputs_first=inputs_first)


def table(letters: str, sizes: Mapping[str, int], *, key: jax.Array, scale: float) -> nnx.Param:
    """Declare an array that no linear map owns and that checkpoints keep with the same axes."""
    value = scale * jax.random.normal(key, [sizes[c] for c in letters], jnp.float32)
    return _declare(value, letters, "", layout.Layout(tuple(letters), letters))


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
    """What layers of one kind share in a forward pass: the masks, rotary tables."""

    mask_BTS: jax.Array  # of keys at hand
    rotation: tuple[jax.Array, jax.Array] | None  # cosines and sines; None = positions are learned
    segments_BT: jax.Array
    past_BTS: jax.Array | None = None  # of slots in the cache
    virtual: "Context | None" = None  # of a prompt's tokens, which come before
    prefix: Mapping[str, jax.Array] | None = None  # keys and values [1,n,K,H] that all queries see


@dataclasses.dataclass(frozen=True)
class Site:
    """Applies a block's linear maps: pairs each weight with its adapter and its key."""

    adapters: Mapping[str, Any]
    key: jax.Array | None

    def __call__(self, name: str, x: jax.Array, param: nnx.Param) -> jax.Array:
        """Apply the map called `name` in the block's tree."""
        key = None if self.key is None else rng.named(self.key, name)
        equation = param.get_metadata("equation")
        return linear.linear(equation, x, param[...], self.adapters.get(name), key)

    def lookup(self, name: str, tokens_BT: jax.Array, param: nnx.Param) -> jax.Array:
        """Take rows of the embedding called `name`."""
        return linear.lookup(tokens_BT, param[...], self.adapters.get(name))

    def under(self, name: str) -> "Site":
        """Descend into a child of the block."""
        key = None if self.key is None else rng.named(self.key, name)
        return Site(self.adapters.get(name) or {}, key)


def metadata(module: nnx.Module, name: str) -> dict:
    """Read one metadata field of every parameter of an abstract module, as a nested dict."""
    state = nnx.state(module, nnx.Param)
    pick = lambda param: param.get_metadata(name)
    return nnx.to_pure_dict(jax.tree.map(pick, state, is_leaf=lambda x: isinstance(x, nnx.Param)))


def linears(module: nnx.Module, *, layers: tuple[int, ...] | None) -> dict[str, Linear]:
    """List the linear maps that an abstract module declares, by path."""
    equations, first = (tree.paths(metadata(module, n)) for n in ("equation", "inputs_first"))
    shapes = tree.paths(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    return {
        name: Linear(e, shapes[name].shape, layers, first[name])
        for name, e in equations.items() if e
    }  # fmt: skip


def scan(layers, x, inputs, *, length: int, policy: str, loop: bool):
    """Run a group of layers over every slice of `inputs` along its leading axis.

    A layer is `(x, one slice) -> (x, output)`; returns x and one output per layer of the group,
    each stacked on the leading axis. What is `tree.Shared` in `inputs` goes to every slice whole.
    `policy` is a name of `ops.remat` and acts layer by layer. `loop` unrolls in Python: the
    definition, for tests.
    """
    shared, inputs = tree.split_shared(inputs)
    layers = [lambda x, one, run=layer: run(x, tree.combine(one, shared)) for layer in layers]
    if policy != "none":
        # A loop of one turn is no loop to the compiler: nothing keeps it from merging what is made
        # again with what was made before.
        options = dict(policy=remat.POLICIES[policy], prevent_cse=loop or length == 1)
        layers = [jax.checkpoint(layer, **options) for layer in layers]

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


def empty_cache(sizes: Mapping[str, int], dtype) -> dict[str, jax.Array]:
    """Make a cache of zeros, its letters those of CACHE; in int8 with scales."""
    types = {name: dtype for name in NEW}
    if jnp.dtype(dtype) == jnp.int8:
        types |= {f"{name}_scale": jnp.float32 for name in NEW}
    return {n: jnp.zeros([sizes[c] for c in CACHE[n]], kind) for n, kind in types.items()}


def write_cache(cache, new, slots_BT):
    """Write keys and values [L,B,T,K,H] of new tokens at their slots; out of range = dropped."""
    rows_BT = jnp.arange(slots_BT.shape[0])[:, None]
    new, where = _encode(new, cache), dict(B=rows_BT, S=slots_BT)

    def write(name: str, old):
        at = tuple(where.get(c, slice(None)) for c in CACHE[name])
        x = _turn(new[name], "BS" + CACHE[name].replace("B", "").replace("S", ""))
        return old.at[at].set(x.astype(old.dtype), mode="drop")

    return {name: write(name, old) for name, old in cache.items()}


def fill_cache(cache, new):
    """Write keys and values [L,B,T,K,H] of new tokens at the first T slots of a cache."""
    new = _encode(new, cache)

    def fill(name: str, old):
        x = _turn(new[name], CACHE[name])
        return jax.lax.dynamic_update_slice(old, x.astype(old.dtype), (0,) * old.ndim)

    return {name: fill(name, old) for name, old in cache.items()}


def _encode(new, cache):
    """Round to the steps of an int8 cache: k, v [L,B,T,K,H] and their scales [L,B,T,K]."""
    if "k_scale" not in cache:
        return new
    scales = {n: jnp.abs(x).max(-1).astype(jnp.float32) / 127 for n, x in new.items()}
    steps = {n: x / jnp.maximum(scales[n], 1e-30)[..., None] for n, x in new.items()}
    return {n: jnp.round(x) for n, x in steps.items()} | {
        f"{n}_scale": x for n, x in scales.items()
    }


def _turn(new, letters: str):
    """Give the axes of new tokens, L B S K and H or none, the order of `letters`."""
    return new.transpose(["LBSKH".index(c) for c in letters])


def read_cache(cache, dtype) -> tuple[jax.Array, jax.Array]:
    """Return keys [B,K,H,S] and values [B,K,S,H] of a layer in the type of the computation."""
    k, v = cache["k"], cache["v"]
    if "k_scale" in cache:
        k, v = k * cache["k_scale"][:, :, None], v * cache["v_scale"][..., None]
    return k.astype(dtype), v.astype(dtype)
