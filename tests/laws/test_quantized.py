"""Laws of quantised bases, for every family: they compute what their dense weights compute."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.models import quantized
from ftjax.ops import quantize
from ftjax.train import state as states
from ftjax.train.policy import Policy
from tests.laws import subjects

each = pytest.mark.parametrize("family", subjects.by_program())
FIRST = subjects.PLAIN


def base(family, *, name="nf4", where="blocks/**", **options):
    """Quantise the weights of a family; returns the handle, them, and them as arrays."""
    handle, weights = subjects.model(family, **options), subjects.weights(family, **options)
    quantizers = quantized.make_quantizers(handle, name=name, where=where)

    @jax.jit
    def both(weights):
        codes = quantized.quantise(weights, handle, quantizers)
        return codes, quantize.dense(codes, jnp.float32)

    codes, dense = both(weights)
    assert set(quantize.sites(codes)) == set(quantizers)
    return handle, codes, dense


def score(handle, params):
    return Policy(handle, params, subjects.CHUNK).logps(subjects.batch()).sum()


@each
def test_every_family_computes_what_it_computes_with_its_dense_weights(family):
    handle, codes, dense = base(family)
    run = jax.jit(lambda model: score(handle, {"model": model, "adapters": None}))
    subjects.close(run(codes), run(dense), atol=1e-3)


@pytest.mark.parametrize(
    "family",
    [
        p if p in (FIRST, "mixtral") else pytest.param(p, marks=pytest.mark.slow)
        for p in subjects.FAMILIES
    ],
)
def test_gradients_of_adapters_are_those_over_the_dense_weights(family):
    handle, codes, dense = base(family)
    adapters = subjects.randomised(subjects.adapters("lora", family))
    run = lambda adapters, model: score(handle, {"model": model, "adapters": adapters})
    gradient = jax.jit(jax.value_and_grad(run))
    subjects.close(gradient(adapters, codes), gradient(adapters, dense), atol=1e-3)


@pytest.mark.parametrize("name", subjects.ADAPTERS)
def test_every_adapter_works_over_int8_and_a_quantised_head(name):
    handle, codes, dense = base(FIRST, name="int8", where="**", tied=False)
    assert "head" in quantize.sites(codes)
    adapters = subjects.randomised(subjects.adapters(name, FIRST, where="**", tied=False))
    run = jax.jit(lambda model: score(handle, {"model": model, "adapters": adapters}))
    subjects.close(run(codes), run(dense), atol=1e-3)


@pytest.mark.parametrize("remat", ["none", "light", "full"])
def test_the_backward_pass_keeps_no_dense_weight(remat):
    handle, codes, dense = base(FIRST)
    handle = dataclasses.replace(handle, remat=remat)
    adapters, batch = subjects.adapters("lora", FIRST), subjects.batch(rows=3)
    sizes = {tree.paths(dense)[path].size for path in quantize.sites(codes)}

    def kept(model):
        run = lambda a: Policy(handle, {"model": model, "adapters": a}, subjects.CHUNK).logps(batch)
        leaves = jax.tree.leaves(jax.eval_shape(lambda a: jax.vjp(run, a)[1], adapters))
        floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return {leaf.size for leaf in floats if leaf.ndim > 2}  # of the stacks

    assert not kept(codes) & sizes
    assert kept(dense) & sizes  # else this test could not fail


def test_on_a_mesh_it_is_the_same():
    handle, codes, _ = base(FIRST)
    mesh = meshes.make(data=2, fsdp=2, tensor=2)
    places = meshes.shardings(quantize.axes(handle.axes, codes), codes, mesh)
    cut = {path for path, s in tree.paths(places).items() if not s.is_fully_replicated}
    assert any(path.endswith("/codes") for path in cut)
    placed = jax.device_put(codes, places)
    run = jax.jit(lambda model: Policy(handle, {"model": model}, subjects.CHUNK).logps(batch))
    batch = subjects.batch()
    alone = run(codes)
    with jax.set_mesh(mesh):
        subjects.close(run(placed), alone, atol=1e-4)


@pytest.mark.parametrize("pattern", ["model/**", "model/blocks/attn/q", "**", "model/**/codes"])
def test_codes_do_not_train(pattern):
    _, codes, _ = base(FIRST)
    params = {"model": codes, "adapters": subjects.adapters("lora", FIRST)}
    with pytest.raises(ValueError, match=r"trainable: got .* expected no quantised weight"):
        states.split(params, [pattern])
    trainable, _ = states.split(params, ["adapters/**", "model/**norm"])
    paths = tree.paths(trainable)
    assert any(path.endswith("norm") for path in paths)
    assert all(jnp.issubdtype(leaf.dtype, np.floating) for leaf in paths.values())
