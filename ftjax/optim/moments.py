"""Moments kept in fewer bits between steps: bfloat16, or 8 bits by blocks (arXiv:2110.02861).

    x = scale * value(code)         scale float32, the largest |x| of a block of 128 along one axis

`value` is the dynamic code of that paper: of 7 bits for blocks with negative values, beside a sign,
of 8 for those without. The place of a code's leading one is the decade, the bits behind it cut the
decade into equal steps:

    code = 2^k + i, i < 2^k        value = 10^(k - (bits - 1)) * (0.1 + 0.9 * (i + 1) / 2^k)

Here levels are the upper ends of steps and not their middles, so that 1 is one of them: else the
largest of a block would shrink at every step that it is written. What is nearest is taken, but a
block without negative values has no zero in the place of a positive one: Adam divides by its root.
An error is at most half a step, 0.0036 of the largest of a block for squares and 0.0071 for what
has signs; a step is a fifth as long in each decade below.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftjax.core import config as conf
from ftjax.ops import fast

# Of the moments; float16 would lose the small squares of gradients (below 6e-8 there is nothing).
DTYPES = ("float32", "bfloat16", "int8")
# Whose arrays are averages of what gradients say. Others keep weights, or sums that only grow by
# less than a step of the code.
AVERAGES = (
    "adabelief", "adam", "adamw", "amsgrad", "lamb", "lion", "nadam", "nadamw", "radam", "rmsprop",
    "sgd",
)  # fmt: skip
# Short enough for the part that a device of many has of a width: 4096 over 32.
BLOCK = 128
# Where no axis has blocks of so many, scales would take an eighth of the bytes or more.
SHORTEST = 32
# Arrays below stay float32, as the authors' do: they take no memory, and norms and biases are
# among them.
SMALLEST = 4096


class Blocks(NamedTuple):
    """An array in 8 bits.

    codes: int8, of the array's shape. scales: float32, the same but for the axis of the blocks,
    along which there is one a block; negative where its codes are of values that are none.
    """

    codes: jax.Array
    scales: jax.Array


def kept_in(
    inner: optax.GradientTransformation, dtype: str, *, name: str, where: str
) -> optax.GradientTransformationExtraArgs:
    """Keep the arrays of an optimizer's state in `dtype`; it computes in float32 all the same.

    name: of the optimizer, or a dotted path to one.

    Raises:
      ValueError: no such type, or one that this optimizer's arrays do not bear.
    """
    if dtype not in DTYPES:
        legal = conf.listed(DTYPES)
        raise ValueError(f"{where}.state_dtype: got {dtype!r}; expected one of {legal}")
    if dtype == "int8" and name not in AVERAGES and "." not in name:
        raise ValueError(
            f"{where}.state_dtype: got 'int8' with {name!r}; expected one of "
            f"{conf.listed(AVERAGES)}, whose state is averages of gradients; use 'bfloat16'"
        )
    inner = optax.with_extra_args_support(inner)
    if dtype == "float32":
        return inner
    narrow, wide = (_to_blocks, _to_arrays) if dtype == "int8" else (_to_bfloat16, _to_float32)

    def update(updates, state, params, **extra):
        moves, state = inner.update(updates, wide(state), params, **extra)
        return moves, narrow(state)

    init = lambda params: narrow(inner.init(params))
    kept = optax.GradientTransformationExtraArgs(init, update)
    # One of somebody's own may look at several parameters at once.
    return _one_by_one(kept) if dtype == "int8" and name in AVERAGES else kept


def _one_by_one(inner: optax.GradientTransformationExtraArgs):
    """Update one parameter after the other: else all moments would be float32 at the same time.

    inner: treats every parameter by itself.
    """

    def update(updates, state, params, **extra):
        leaves, structure = jax.tree.flatten(updates)
        numbers = jax.tree.unflatten(structure, range(len(leaves)))
        found = []
        for n in range(len(leaves)):
            alone = lambda x, number, n=n: x if number == n else optax.MaskedNode()
            own = optax.tree.map_params(inner, alone, state, numbers, is_leaf=is_blocks)
            if found:  # by itself a compiler starts all of them, and ends them later
                own, found[-1] = fast.in_turn(own, found[-1])
            parts = (jax.tree.map(alone, each, numbers) for each in (updates, params))
            found.append(inner.update(next(parts), own, next(parts), **extra))
        return _joined(found) if found else (updates, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _joined(found: list):
    """Join trees each of which holds what others lack; counts are in all, and equal."""
    is_leaf = lambda node: is_blocks(node) or _is_absent(node)
    (first, structure), *rest = (jax.tree.flatten(each, is_leaf=is_leaf) for each in found)
    nodes = zip(first, *(each for each, _ in rest), strict=True)
    there = (next(node for node in own if not _is_absent(node)) for own in nodes)
    return jax.tree.unflatten(structure, there)


def _is_absent(node) -> bool:
    return isinstance(node, optax.MaskedNode)


def is_blocks(node) -> bool:
    """Return whether a node of a state is an array in 8 bits."""
    return isinstance(node, Blocks)


def placed(node: Blocks, sharding: jax.sharding.NamedSharding) -> Blocks:
    """Return shardings of an array in 8 bits whose parameter has this one.

    Scales are cut as the parameter is, but whole along an axis that their number does not divide.
    """
    mesh, spec = sharding.mesh, sharding.spec
    spec = (*spec, *(None,) * (node.scales.ndim - len(spec)))
    names = lambda part: (part,) if isinstance(part, str) else part or ()
    parts = lambda part: math.prod(mesh.shape[axis] for axis in names(part))
    own = [p if n % parts(p) == 0 else None for p, n in zip(spec, node.scales.shape, strict=True)]
    scales = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*own))
    return Blocks(sharding, scales)


# -- the code --------------------------------------------------------------------------------------


def quantize(x: jax.Array) -> Blocks | jax.Array:
    """Put an array into 8 bits; one that is small or has no axis for blocks is returned as it is.

    The axis depends on the shape alone, so that a checkpoint fits any mesh: that with the largest
    blocks, of equal ones that with the most factors of two, which meshes cut most evenly.
    """
    axis, block = _axis(x.shape)
    if x.size < SMALLEST or block < SHORTEST:
        return x
    cut = (*x.shape[:axis], x.shape[axis] // block, block, *x.shape[axis + 1 :])
    parts = x.astype(jnp.float32).reshape(cut)
    largest = jnp.abs(parts).max(axis + 1, keepdims=True)
    is_signed = (parts < 0).any(axis + 1, keepdims=True)
    # A block of zeros has no scale to divide by.
    y = parts / jnp.where(largest > 0, largest, 1.0)
    code = jnp.where(is_signed, _encode(jnp.abs(y), 7) * jnp.sign(y), _unsigned(y) - 128.0)
    scales = jnp.where(is_signed, largest, -largest).squeeze(axis + 1)
    return Blocks(code.astype(jnp.int8).reshape(x.shape), scales)


def dequantize(blocks: Blocks) -> jax.Array:
    """Return the float32 array."""
    codes, scales = blocks
    axis = next(n for n, size in enumerate(codes.shape) if size != scales.shape[n])
    shape = (*scales.shape[: axis + 1], codes.shape[axis] // scales.shape[axis])
    code = codes.astype(jnp.float32).reshape((*shape, *codes.shape[axis + 1 :]))
    scale = jnp.expand_dims(scales, axis + 1)
    signed = _decode(jnp.abs(code), 7) * jnp.sign(code)
    value = jnp.where(scale > 0, signed, _decode(code + 128.0, 8))
    return (value * jnp.abs(scale)).reshape(codes.shape)


def _axis(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the axis along which blocks lie, and their length."""
    twos = [size & -size for size in shape]
    axis = max(range(len(shape)), key=lambda n: (min(twos[n], BLOCK), twos[n], n))
    return axis, min(twos[axis], BLOCK)


# By arithmetic and not by a table: accelerators look up element by element.


def _unsigned(y: jax.Array) -> jax.Array:
    return jnp.maximum(_encode(y, 8), jnp.where(y > 0, 1.0, 0.0))


def _encode(y: jax.Array, bits: int) -> jax.Array:
    """Return the nearest code, as float32, of values from 0 to 1."""
    code = jnp.zeros_like(y)
    for k in range(bits):
        place = (y * 10.0 ** (bits - 1 - k) - 0.1) / 0.9 * 2**k
        # The step below the first of a decade is the last of the one before.
        own = 2**k - 1 + jnp.maximum(jnp.round(place), 0.0)
        code = jnp.where(y > (10.0 ** (k - bits) if k else 0.0), own, code)
    return code


def _decode(code: jax.Array, bits: int) -> jax.Array:
    value = jnp.zeros_like(code)
    for k in range(bits):
        own = (0.1 + 0.9 * (code - 2**k + 1) / 2**k) * 10.0 ** (k - bits + 1)
        value = jnp.where(code >= 2**k, own, value)
    return value


# -- states ----------------------------------------------------------------------------------------


def _is_moment(x: jax.Array) -> bool:
    # Scalars, such as an estimated learning rate, take no memory and stay exact.
    return x.ndim > 0 and jnp.issubdtype(x.dtype, jnp.floating)


def _cast(state, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if _is_moment(x) else x, state)


def _to_bfloat16(state):
    return _cast(state, jnp.bfloat16)


def _to_float32(state):
    return _cast(state, jnp.float32)


def _to_blocks(state):
    return jax.tree.map(lambda x: quantize(x) if _is_moment(x) else x, state)


def _to_arrays(state):
    widen = lambda x: dequantize(x) if is_blocks(x) else x
    return jax.tree.map(widen, state, is_leaf=is_blocks)
