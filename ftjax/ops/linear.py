"""The only place where a weight and an adapter meet: `linear(equation, x, w, adapter)`.

`contract` is `einsum` with the operands flattened to two dimensions first. On CPU the backward pass
of a matmul over three-dimensional activations contracts two axes at once and is 1.5 times slower
than the same product over `[B*T, D]`; on accelerators the two compile to the same program.

An embedding is the linear map `LOOKUP` of one-hot tokens, done by taking rows: `lookup`.
"""

import functools

import jax

from ftjax.core import einsum
from ftjax.ops import products, quantize

LOOKUP = "BTV,VD->BTD"


def linear(equation: str, x, w, adapter=None, key=None):
    """Apply the linear map of `equation` with weight `w`, changed by `adapter` if there is one.

    `w` may be quantised; adapters get it as an array. `key` feeds the adapter's dropout; None means
    evaluation.
    """
    if quantize.is_quantized(w):
        return _quantized(equation, x, w, adapter, key)
    if adapter is None:
        return contract(equation, x, w)
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
    # A gather reads the rows of the tokens; a product with one-hots would read the whole table.
    return w_VD[tokens_BT] if adapter is None else adapter.lookup(tokens_BT, w_VD)


def contract(equation: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """Compute `einsum(equation, x, w)`, as one two-dimensional matmul where the letters allow.

    They do when x is `<batch><contracted>` and w is `<contracted><kept>` or `<kept><contracted>`.
    """
    e = einsum.parse(equation)
    rows = e.x.removesuffix(e.contracted)
    fits = not e.shared and e.x == rows + e.contracted and e.y == rows + e.kept
    # Shared letters (experts) and permuted outputs are left to einsum, which batches or transposes.
    if not fits or e.w not in (e.contracted + e.kept, e.kept + e.contracted):
        return products.einsum(equation, x, w)
    sizes = einsum.sizes(e.x, x.shape) | einsum.sizes(e.w, w.shape)
    summed, made = einsum.size(e.contracted, sizes), einsum.size(e.kept, sizes)
    x_2d = x.reshape(-1, summed)
    if e.w == e.contracted + e.kept:
        w_2d = w.reshape(summed, made)
        # Only where K > N: there dw is tall and thin, and a CPU multiplies the wide form of it
        # faster.
        y_2d = _narrowing(x_2d, w_2d) if summed > made else products.matmul(x_2d, w_2d)
    else:
        # The transpose is free: both matmul kernels read the right operand in either order.
        y_2d = products.matmul(x_2d, w.reshape(made, summed).T)
    return y_2d.reshape([sizes[c] for c in e.y])


@jax.custom_vjp
def _narrowing(x, w):
    """Compute x w, [rows,K] [K,N] with K > N."""
    return products.matmul(x, w)


def _narrowing_backward(residuals, g):
    """Make dw with its N as rows, behind a barrier so that it stays so: faster on a CPU."""
    x, w = residuals
    dw = jax.lax.optimization_barrier(products.matmul(g.T, x)).T
    return products.matmul(g, w.T), dw


_narrowing.defvjp(lambda x, w: (products.matmul(x, w), (x, w)), _narrowing_backward)
