"""Products of two arrays, summed in float32 and rounded once to the type of the operands.

Two rules hold for every product of a model:

- float32 means float32. Without a precision an accelerator multiplies float32 operands in passes of
  bfloat16 (TPU) or TF32 (GPU), so `compute_dtype="float32"` would name another computation there.
- A lower type is summed in float32 and rounded after the last addition. Where a mesh splits the
  summed axis, what devices add are float32 partial sums; rounded ones would differ between a policy
  and its reference, whose products are the same numbers in other programs.

    y = einsum("BTD,DF->BTF", x, w)
    y = matmul(x, w)                       two-dimensional operands
    y = matmul(x, w, dtype=jnp.float32)    the sum as it is
"""

import functools

import jax
import jax.numpy as jnp

from ftjax.core import mesh as meshes

# On TPUs the default multiplies float32 in one bfloat16 pass, on GPUs in TF32.
HIGHEST = jax.lax.Precision.HIGHEST


def precision(*operands: jax.Array) -> jax.lax.Precision | None:
    """Return HIGHEST for float32 operands; lower types are multiplied exactly without it."""
    # Products of bfloat16 numbers are exact in float32: a precision would only forbid fast kernels.
    return HIGHEST if jnp.result_type(*operands) == jnp.float32 else None


def einsum(equation: str, x: jax.Array, w: jax.Array, *, dtype=None) -> jax.Array:
    """Compute `jnp.einsum(equation, x, w)` of two operands.

    Every letter of an operand is in the other one or in the result, and none twice in one.
    dtype: of the result; that of the operands by default. Gradients multiply in the operands' type.
    """
    # Promoted here, as jnp.einsum would: gradients go back to each operand's own type by the casts.
    kind = jnp.result_type(x, w)
    return _einsum(equation, jnp.dtype(dtype or kind), x.astype(kind), w.astype(kind))


def matmul(x: jax.Array, w: jax.Array, *, dtype=None) -> jax.Array:
    """Compute x w, [M,K] [K,N]; dtype as for `einsum`."""
    return einsum("mk,kn->mn", x, w, dtype=dtype)


def summed(equation: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """Compute the same without the last rounding: float32, with no derivative rule of its own."""
    # The element type of the sum, not of the operands: what devices exchange is float32.
    options = dict(precision=precision(x, w), preferred_element_type=jnp.float32)
    return jnp.einsum(equation, x, w, **options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _einsum(equation, dtype, x, w):
    # A custom rule, because the transpose of a float32-summed product would multiply in float32.
    if dtype == x.dtype and dtype.itemsize == 2 and _kernels_round():
        return jnp.einsum(equation, x, w, precision=precision(x, w))
    return summed(equation, x, w).astype(dtype)


def _kernels_round() -> bool:
    """Return whether a kernel sums in float32 and writes the rounded number itself.

    A GPU's do, where no other device adds to the sum: writing it in float32 to round it in another
    kernel costs an eighth of a large product.
    """
    mesh = meshes.current()
    return mesh is not None and mesh.size == 1 and meshes.platform() == "gpu"


def _forward(equation, dtype, x, w):
    return _einsum(equation, dtype, x, w), (x, w)


def _backward(equation, dtype, residuals, g):
    """Multiply the cotangent in the operands' type: the rule of a float32 sum has float32 ones."""
    del dtype
    x, w = residuals
    inputs, made = equation.split("->")
    left, right = inputs.split(",")
    kind, g = x.dtype, g.astype(x.dtype)
    dx = _einsum(f"{made},{right}->{left}", kind, g, w)
    return dx, _einsum(f"{left},{made}->{right}", kind, x, g)


_einsum.defvjp(_forward, _backward)
