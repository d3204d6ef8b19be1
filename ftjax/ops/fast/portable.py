"""Forms for every backend: fewer products or fewer passes; see `plain` for what they compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import einsum
from ftjax.core import mesh as meshes
from ftjax.ops import products
from ftjax.ops.fast import by_platform


def contract(equation: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """Flatten the operands to one two-dimensional matmul where the letters allow.

    They do when x is `<batch><contracted>` and w is `<contracted><kept>` or `<kept><contracted>`.
    On a CPU the backward pass of a matmul over three-dimensional activations contracts two axes at
    once and is 1.5 times slower; on accelerators the two compile to the same program. Rows that a
    mesh cuts along both axes are left as they are: flat ones would come together on every device.
    """
    e = einsum.parse(equation)
    rows = e.x.removesuffix(e.contracted)
    fits = not e.shared and e.x == rows + e.contracted and e.y == rows + e.kept
    # Shared letters (experts) and permuted outputs are left to einsum, which batches or transposes.
    sizes = einsum.sizes(e.x, x.shape) | einsum.sizes(e.w, w.shape)
    fits = fits and meshes.row_parts(sizes.get("T", 1)) == 1
    if not fits or e.w not in (e.contracted + e.kept, e.kept + e.contracted):
        return products.einsum(equation, x, w)
    summed, made = einsum.size(e.contracted, sizes), einsum.size(e.kept, sizes)
    x_2d = x.reshape(-1, summed)
    if e.w == e.contracted + e.kept:
        w_2d = w.reshape(summed, made)
        # Only where K > N: there dw is tall and thin.
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
    x, w = residuals
    dw = by_platform.transposed_product(x, g)
    return products.matmul(g, w.T), dw


_narrowing.defvjp(lambda x, w: (products.matmul(x, w), (x, w)), _narrowing_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def contract_low_rank(equation: str, x, w, a, b, scale) -> jax.Array:
    """Compute `plain.contract_low_rank` with a gradient that goes through the rank.

    That of the merged weight, a product as large as the map itself, is never formed.
    """
    return contract(equation, x, _merge(equation, w, a, b, scale))


def _merge(equation, w, a, b, scale):
    delta = products.einsum(einsum.lora(equation).weight, a, b)
    return w + (scale * delta).astype(w.dtype)


def _low_rank_forward(equation, x, w, a, b, scale):
    return contract_low_rank(equation, x, w, a, b, scale), (x, w, a, b, scale)


def _low_rank_backward(equation, residuals, g):
    """With u = g b^T: dx = g (w + s a b)^T, da = s x^T u, db = s (x a)^T g, ds = <x a, u>."""
    x, w, a, b, scale = residuals
    e, through = einsum.lora(equation), functools.partial(_pull, g)
    # Merged again and not kept: a second copy of every weight would live until here.
    dx = through(equation, x, _merge(equation, w, a, b, scale))[0]
    dw = through(equation, x, w)[1]
    low = contract(e.down, x, a)
    u, db = _pull(g, e.up, low, b)
    da = _pull(u, e.down, x, a)[1]
    return dx, dw, scale * da, scale * db, (low * u).sum()


def _pull(g, equation, x, w):
    """Pull a cotangent back through `contract`; what is not used of the pair costs nothing."""
    return jax.vjp(functools.partial(contract, equation), x, w)[1](g)


contract_low_rank.defvjp(_low_rank_forward, _low_rank_backward)


def threshold(x_BV: jax.Array, weights_BV: jax.Array, mass) -> jax.Array:
    """Settle the bits of the threshold from the highest down, in place of a sort.

    32 sums over unsigned numbers in the order of the floats. A sort takes a CPU 15 times as long;
    a bitonic one, as on a TPU, would pass 153 times over 2^17 entries.
    """
    bits_BV, sign = jax.lax.bitcast_convert_type(x_BV, jnp.uint32), jnp.uint32(1 << 31)
    order_BV = jnp.where(bits_BV < sign, bits_BV | sign, ~bits_BV)

    def settle(i, edge_B1):
        higher_B1 = edge_B1 | (sign >> i)
        weight_B1 = jnp.where(order_BV >= higher_B1, weights_BV, 0).sum(-1, keepdims=True)
        return jnp.where(weight_B1 >= mass, higher_B1, edge_B1)

    edge_B1 = jax.lax.fori_loop(
        jnp.uint32(0), jnp.uint32(32), settle, jnp.zeros_like(order_BV[:, :1])
    )
    edge_B1 = jnp.where(edge_B1 < sign, ~edge_B1, edge_B1 ^ sign)
    return jax.lax.bitcast_convert_type(edge_B1, jnp.float32)


def look_up(codes: jax.Array, values: np.ndarray) -> jax.Array:
    """Choose by the bits in turn: gathers of single numbers are slow on accelerators."""
    chosen = [jnp.float32(value) for value in values]
    # A tree of selects over constants; it vectorises, and the constants stay in registers.
    for bit in range(len(values).bit_length() - 1):
        odd = (codes >> bit) & 1 == 1
        chosen = [jnp.where(odd, b, a) for a, b in zip(chosen[::2], chosen[1::2], strict=True)]
    return chosen[0]


def in_turn(own, before):
    """Let what is computed of `own` wait until `before` is there.

    A compiler starts whatever it can as soon as it can, and then keeps what all of it needs.
    """
    return jax.lax.optimization_barrier((own, before))
