"""Which weights of a model are quantised, and quantising them without ever holding all of them.

    quantizers = make_quantizers(model, name="nf4", where="blocks/**")    path -> function
    params = quantise(params, model, quantizers)                 of arrays that are already there
    leaf = gather(quantizers[path], read, 32, ...)               of layers, read one by one

Only linear maps are quantised. The embedding stays as it is, because it is looked up by rows.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.ops import quantize

Quantizers = Mapping[str, Callable[[jax.Array], quantize.Quantized]]


def make_quantizers(model, *, name: str, where: str | Iterable[str]) -> Quantizers:
    """Make a quantiser of one layer's weight for every linear map whose path matches `where`.

    Raises:
      ValueError: there is no such format, or a pattern matches nothing.
    """
    linears, quantizer = model.linears, quantize.make(name=name)
    legal = [path for path, site in linears.items() if not site.is_lookup]
    chosen = tree.select(where, legal, where="model.quantize.where")
    return {path: functools.partial(quantizer, linears[path].equation) for path in sorted(chosen)}


def quantise(params: Mapping[str, Any], model, quantizers: Quantizers):
    """Quantise the chosen weights of a tree of (real or traced) arrays."""
    linears = model.linears

    def one(path, w):
        if path not in quantizers:
            return w
        quantizer = quantizers[path]
        # Layer by layer, as `gather` does: a scale never spans two layers.
        return quantizer(w) if linears[path].stack is None else jax.vmap(quantizer)(w)

    return tree.map_with_paths(one, params)


def gather(
    quantizer: Callable, read: Callable[[int], jax.Array], count: int, *, letters: str, mesh
) -> quantize.Quantized:
    """Quantise `read(0)`, `read(1)`, ... into one stacked leaf, one layer in memory at a time.

    `letters` are those of the stacked weight; without a mesh the leaf lies on one device.
    """
    layer = read(0)
    stacked = jax.ShapeDtypeStruct((count, *layer.shape), layer.dtype)
    abstract = jax.eval_shape(jax.vmap(quantizer), stacked)
    places = None
    if mesh is not None:
        places = meshes.shardings(quantize.axes(letters, abstract), abstract, mesh)
    empty = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
    write = lambda whole, w, at: jax.tree.map(
        lambda leaf, own: leaf.at[at].set(own), whole, quantizer(w)
    )
    whole = jax.jit(empty, out_shardings=places)()
    # Donated: the stacked leaf is written in place, and never exists twice.
    put = jax.jit(write, out_shardings=places, donate_argnums=0)
    for at in range(count):
        # The first one was read already, for its shape.
        layer = read(at) if at else layer
        # Dispatch does not wait: without this, many dense layers would be in memory at once.
        whole = jax.block_until_ready(put(whole, layer, at))
    return whole
