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
from ftjax.ops import linear, remat

Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Linear:
    """One linear map of a model: its equation and the shape of one layer's weight.

    `stack` is the number of stacked layers, or None for a map that exists once (the head, and the
    embedding, whose equation is `ops.linear.LOOKUP`).
    """

    equation: str
    shape: tuple[int, ...]
    stack: int | None

    @property
    def is_lookup(self) -> bool:
        """Whether the map is an embedding: it takes rows and costs no product."""
        return self.equation == linear.LOOKUP

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
    """What layers of one kind share in a forward pass: the mask, rotary tables, where to write."""

    mask_BTS: jax.Array
    rotation: tuple[jax.Array, jax.Array] | None  # cosines and sines; None = positions are learned
    segments_BT: jax.Array
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


def linears(module: nnx.Module, *, stack: int | None) -> dict[str, Linear]:
    """List the linear maps that an abstract module declares, by path."""
    equations = tree.paths(metadata(module, "equation"))
    shapes = tree.paths(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    return {name: Linear(e, shapes[name].shape, stack) for name, e in equations.items() if e}


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


def update_cache(cache, slots_BT, k_BTKH, v_BTKH):
    """Write keys and values of new tokens at their slots; out-of-range slots are dropped."""
    rows = jnp.arange(slots_BT.shape[0])[:, None]
    write = lambda old, new: old.at[rows, slots_BT].set(new.astype(old.dtype), mode="drop")
    return {"k": write(cache["k"], k_BTKH), "v": write(cache["v"], v_BTKH)}
