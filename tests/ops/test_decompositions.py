"""Decompositions are those of jnp.linalg, and no batch of matrices reaches a CPU's kernels."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from ftjax.ops import decompositions
from tests.lab import ROOT

PLAIN = {
    "svd": lambda m: jnp.linalg.svd(m, full_matrices=False),
    "qr": jnp.linalg.qr,
    "eigh": jnp.linalg.eigh,
}
SHAPES = [(5, 5), (3, 4, 4), (2, 3, 6, 6), (1, 4, 4)]


def matrices(shape, *, symmetric):
    m = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return jnp.asarray(m + m.swapaxes(-1, -2)) if symmetric else jnp.asarray(m[..., :-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PLAIN)
def test_they_are_those_of_jax(name, shape):
    m = matrices(shape, symmetric=name == "eigh")
    found, wanted = getattr(decompositions, name)(m), PLAIN[name](m)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", PLAIN)
def test_mapped_they_are_the_same(name):
    m = matrices((2, 3, 6, 6), symmetric=name == "eigh")
    decompose = getattr(decompositions, name)
    mapped = jax.jit(jax.vmap(jax.vmap(decompose)))(m)
    for ours, theirs in zip(mapped, PLAIN[name](m), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def kernels(jaxpr):
    """Yield (primitive, dimensions of what it takes) of a program and all within."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name, [len(v.aval.shape) for v in eqn.invars]
        for inner in core.jaxprs_in_params(eqn.params):
            yield from kernels(inner)


@pytest.mark.parametrize("name", PLAIN)
def test_a_kernel_of_a_cpu_is_given_one_matrix(name):
    m = matrices((2, 3, 6, 6), symmetric=name == "eigh")
    for decompose in (getattr(decompositions, name), jax.vmap(getattr(decompositions, name))):
        program = jax.make_jaxpr(decompose)(m).jaxpr
        given = [sizes for own, sizes in kernels(program) if own == name]
        assert given
        assert all(sizes[0] == 2 for sizes in given)


def test_nothing_else_decomposes_by_itself():
    calls = re.compile(r"jnp\.linalg\.(svd|qr|eigh)\(")
    found = [path.name for path in (ROOT / "ftjax").rglob("*.py") if calls.search(path.read_text())]
    assert found == ["decompositions.py"]
