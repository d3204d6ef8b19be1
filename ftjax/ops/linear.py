"""The only place where a weight and an adapter meet: `linear(equation, x, w, adapter)`.

The map itself is `fast.contract`, whose definition is `einsum(equation, x, w)`.

An embedding is the linear map `LOOKUP` of one-hot tokens, done by taking rows: `lookup`.
"""

import functools

import jax

from ftjax.core import mesh as meshes
from ftjax.ops import fast, quantize

# A lookup is a product with one-hot rows: so adapters see a site like any other.
LOOKUP = "BTV,VD->BTD"
HEAD = "BTD,VD->BTV"  # its weight lies as the embedding does, which it may be


def linear(equation: str, x, w, adapter=None, key=None):
    """Apply the linear map of `equation` with weight `w`, changed by `adapter` if there is one.

    `w` may be quantised; adapters get it as an array. `key` feeds the adapter's dropout; None means
    evaluation.
    """
    if quantize.is_quantized(w):
        return _quantized(equation, x, w, adapter, key)
    if adapter is None:
        return fast.contract(equation, x, w)
    # The adapter chooses: w' = merge(w) where rows are many, low-rank products where they are few.
    return adapter.apply(equation, x, w, key)


@functools.partial(jax.checkpoint, static_argnums=0, prevent_cse=False)
def _quantized(equation, x, w, adapter, key):
    """Apply a quantised weight; the backward pass keeps its codes and makes the array again."""
    # Under checkpoint the dense array is a temporary of one layer, forward and backward: kept, it
    # would undo what the few bits save.
    return linear(equation, x, w.dequantize(x.dtype), adapter, key)


def linear_rows(equation: str, x, w, contract, adapter=None, key=None):
    """Apply the map to rows grouped by expert, which `contract` knows; see `ops.grouped`."""
    if quantize.is_quantized(w):
        # As in `_quantized`: the dense weight of all experts must not live until the backward pass.
        dense = lambda x, w, *rest: linear_rows(equation, x, w.dequantize(x.dtype), contract, *rest)
        return jax.checkpoint(dense, prevent_cse=False)(x, w, adapter, key)
    if adapter is None:
        return contract(equation, x, w)
    return adapter.apply_rows(equation, x, w, contract, key)


def lookup(tokens_BT: jax.Array, w_VD: jax.Array, adapter=None) -> jax.Array:
    """Take the rows of `w_VD`, changed by `adapter` if there is one: [B,T,D]."""
    if meshes.row_parts(tokens_BT.shape[1]) == 1:
        return _look_up(tokens_BT, w_VD, adapter)
    # Each device takes its features for all tokens, and sends them to where the tokens are, first
    # along rows and then along the batch; for both at once the table would come to every device.
    features = meshes.constrain(_look_up(meshes.constrain(tokens_BT, "bS"), w_VD, adapter), "bSD")
    return meshes.constrain(features, "bTD")


def _look_up(tokens_BT, w_VD, adapter):
    # A gather reads the rows of the tokens; a product with one-hots would read the whole table.
    return w_VD[tokens_BT] if adapter is None else adapter.lookup(tokens_BT, w_VD)
