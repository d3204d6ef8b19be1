"""Singular values by NumPy, with as many threads as a matrix is worth.

The threads of OpenBLAS wait for each other by spinning. What one of them does of a small matrix
takes less time than that, and where other programs or JAX's own threads want the cores the waiting
is most of it.
"""

import contextlib
import functools

import numpy as np
import threadpoolctl

ALONE = 1024  # the longer side of a matrix that one thread decomposes


def svd(matrix: np.ndarray, **options):
    """Compute `numpy.linalg.svd(matrix, **options)`."""
    is_small = max(np.shape(matrix)[-2:]) <= ALONE
    with _libraries().limit(limits=1, user_api="blas") if is_small else contextlib.nullcontext():
        return np.linalg.svd(matrix, **options)


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    # To look for them takes milliseconds; NumPy's is loaded by now.
    return threadpoolctl.ThreadpoolController()
