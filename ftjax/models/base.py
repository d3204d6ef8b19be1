"""The handle that the rest of the project holds of a model, and the scan over its blocks.

Modules are NNX definitions: they say which parameters exist, in which shape, and how a block
computes. They are split at once into a graph definition (static) and a plain nested dict of arrays;
blocks are stacked on a leading axis L and run by one `lax.scan`, so compile time does not grow with
depth. A weight is declared once, by its equation:

    self.q = weight("BTD,DNH->BTNH", sizes)      shape, sharding letters and adapters follow from it
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.core import einsum, rng, tree
from ftjax.ops import linear, remat

Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Linear:
    """One linear map of a model: its equation and the shape of one layer's weight.

    `stack` is the number of stacked layers, or None for a map that exists once (the head).
    """

    equation: str
    shape: tuple[int, ...]
    stack: int | None

    @property
    def axes(self) -> str:
        """Letters of one layer's weight."""
        return einsum.parse(self.equation).w


def weight(equation: str, sizes: Mapping[str, int], *, key: jax.Array, scale: float) -> nnx.Param:
    """Declare the weight of a linear map, normal with standard deviation `scale`."""
    letters = einsum.parse(equation).w
    value = scale * jax.random.normal(key, [sizes[c] for c in letters], jnp.float32)
    return nnx.Param(value, axes=letters, equation=equation)


def vector(letters: str, sizes: Mapping[str, int], *, fill: float) -> nnx.Param:
    """Declare a norm's scale or a bias: an array that no linear map owns."""
    return nnx.Param(
        jnp.full([sizes[c] for c in letters], fill, jnp.float32), axes=letters, equation=""
    )


@dataclasses.dataclass(frozen=True)
class Context:
    """What every block of one forward pass shares: rotary tables, the mask, where to write."""

    cos: jax.Array
    sin: jax.Array
    mask_BTS: jax.Array
    slots_BT: jax.Array | None = None  # cache slots of these tokens; out of range = do not write


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

    def under(self, name: str) -> "Site":
        """Descend into a child of the block."""
        key = None if self.key is None else rng.named(self.key, name)
        return Site(self.adapters.get(name) or {}, key)


def metadata(module: nnx.Module, name: str) -> dict:
    """Read one metadata field of every parameter of an abstract module, as a nested dict."""
    state = nnx.state(module, nnx.Param)
    pick = lambda param: param.get_metadata(name)
    return nnx.to_pure_dict(jax.tree.map(pick, state, is_leaf=lambda x: isinstance(x, nnx.Param)))


def linears(module: nnx.Module, *, stack: int | None) -> dict[str, Linear]:
    """List the linear maps that an abstract module declares, by path."""
    equations = tree.paths(metadata(module, "equation"))
    shapes = tree.paths(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    return {name: Linear(e, shapes[name].shape, stack) for name, e in equations.items() if e}


def scan(body, x, inputs, *, length: int, policy: str, loop: bool):
    """Run `body(x, inputs of one layer) -> (x, output)` over the leading axis of `inputs`.

    `policy` is a name of `ops.remat`. `loop` unrolls in Python: the definition, for tests.
    """
    if policy != "none":
        body = jax.checkpoint(body, policy=remat.POLICIES[policy], prevent_cse=loop)
    if not loop:
        return jax.lax.scan(body, x, inputs, length=length)
    outputs = []
    for layer in range(length):
        x, output = body(x, jax.tree.map(lambda leaf, i=layer: leaf[i], inputs))
        outputs.append(output)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def empty_cache(shape: tuple[int, ...], dtype) -> dict[str, jax.Array]:
    """Make a cache of zeros: k and v [L,B,S,K,H]; in int8 with a scale for each head of a token."""
    zeros = {name: jnp.zeros(shape, dtype) for name in ("k", "v")}
    if jnp.dtype(dtype) != jnp.int8:
        return zeros
    return zeros | {f"{name}_scale": jnp.zeros(shape[:-1], jnp.float32) for name in zeros}


def update_cache(cache, slots_BT, k_BTKH, v_BTKH):
    """Write keys and values of new tokens at their slots; out-of-range slots are dropped."""
    rows = jnp.arange(slots_BT.shape[0])[:, None]
    new = {"k": k_BTKH, "v": v_BTKH}
    if "k_scale" in cache:
        scales = {n: jnp.abs(x).max(-1).astype(jnp.float32) / 127 for n, x in new.items()}
        steps = {n: x / jnp.maximum(scales[n], 1e-30)[..., None] for n, x in new.items()}
        new = {n: jnp.round(x) for n, x in steps.items()}
        new |= {f"{n}_scale": x for n, x in scales.items()}
    write = lambda old, new: old.at[rows, slots_BT].set(new.astype(old.dtype), mode="drop")
    return {name: write(cache[name], new[name]) for name in cache}


def read_cache(cache, dtype) -> tuple[jax.Array, jax.Array]:
    """Return keys and values of all slots, [B,S,K,H], in the type of the computation."""
    if "k_scale" not in cache:
        return cache["k"].astype(dtype), cache["v"].astype(dtype)
    whole = lambda name: (cache[name] * cache[f"{name}_scale"][..., None]).astype(dtype)
    return whole("k"), whole("v")
