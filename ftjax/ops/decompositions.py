"""Decompositions of matrices [.., n, m], which on a CPU take one matrix at a time.

jaxlib's kernels for CPUs spread a batch over the threads that run the program, and wait. Where
several of them run at once, as for the sites of a model, they can take every thread and wait for
each other for ever: three batched SVDs did on two cores (jaxlib 0.10.2, `jax::ParallelBatchMap`).
A kernel that is given one matrix does not wait. Accelerators get the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def _one_at_a_time(decompose: Callable) -> Callable:
    # Under vmap as well: the matrices of a batch are not seen there.
    single = jax.custom_batching.sequential_vmap(decompose)

    def over_all(m: jax.Array) -> Any:
        if jax.default_backend() != "cpu":
            return decompose(m)
        if m.ndim == 2:
            return single(m)
        found = jax.lax.map(single, m.reshape(-1, *m.shape[-2:]))
        return jax.tree.map(lambda x: x.reshape(*m.shape[:-2], *x.shape[1:]), found)

    return over_all


_svd = _one_at_a_time(lambda m: tuple(jnp.linalg.svd(m, full_matrices=False)))
_qr = _one_at_a_time(lambda m: tuple(jnp.linalg.qr(m)))
_eigh = _one_at_a_time(lambda m: tuple(jnp.linalg.eigh(m)))


def svd(m: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return u [.., n, k], s [.., k] from the largest on, and vh [.., k, m]; k = min(n, m)."""
    return _svd(m)


def qr(m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return q [.., n, k] of orthonormal columns and upper triangular r [.., k, m]."""
    return _qr(m)


def eigh(m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return eigenvalues [.., n] in ascending order and vectors [.., n, n] of symmetric m."""
    return _eigh(m)
