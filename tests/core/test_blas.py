"""How many threads decompose a matrix."""

import numpy as np
import pytest
import threadpoolctl

from ftjax.core import blas


def threads():
    found = threadpoolctl.threadpool_info()
    return {own["num_threads"] for own in found if own["user_api"] == "blas"}


@pytest.mark.parametrize(("shape", "few"), [((3, 5), True), ((2, blas.ALONE + 1), False)])
def test_a_small_matrix_has_one_thread_and_others_have_what_there_was(shape, few, monkeypatch):
    seen, own = [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *a, **b: seen.append(threads()) or own(*a, **b))
    matrix = np.random.default_rng(0).normal(size=shape)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        u, s, v = blas.svd(matrix, full_matrices=False)
        assert threads() == before
    assert seen == [{1} if few else before]
    np.testing.assert_allclose((u * s) @ v, matrix, atol=1e-12)
