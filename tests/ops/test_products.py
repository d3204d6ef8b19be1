import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ftjax
from ftjax.adapters.lib import inits, protocol
from ftjax.core import mesh as meshes
from ftjax.ops import products
from ftjax.train.step import make_gradients
from tests.laws import subjects

ROOT = pathlib.Path(ftjax.__file__).parent
DOTS = ("dot_general", "ragged_dot_general")
HIGHEST = (jax.lax.Precision.HIGHEST,) * 2


@pytest.fixture(autouse=True)
def default_precision():
    """What an accelerator has by default; all other tests run at the highest."""
    with jax.default_matmul_precision("default"):
        yield


def dots(jaxpr):
    """Yield every product of a jaxpr and of those inside it."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in DOTS:
            yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from dots(inner)


def check(function, *arguments):
    """Check that all products of float32 are exact ones; returns how many there are."""
    found = list(dots(jax.make_jaxpr(function)(*arguments).jaxpr))
    for eqn in found:
        if eqn.invars[0].aval.dtype == jnp.float32:
            assert eqn.params["precision"] in (HIGHEST, HIGHEST[0]), eqn
    return len(found)


def test_float32_is_float32_and_lower_types_are_summed_in_it():
    x, w = jnp.ones((4, 8)), jnp.ones((8, 6))
    loss = lambda x, w: products.matmul(x, w).astype(jnp.float32).sum()
    assert check(jax.grad(loss, (0, 1)), x, w) == 3  # one forward, two back
    low = (x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))
    for eqn in dots(jax.make_jaxpr(jax.value_and_grad(loss, (0, 1)))(*low).jaxpr):
        assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype(jnp.bfloat16)}
        assert eqn.outvars[0].aval.dtype == jnp.float32
    assert products.matmul(*low).dtype == jnp.bfloat16


def test_gradients_are_those_of_einsum():
    x, w = jax.random.normal(jax.random.key(0), (2, 3, 4)), jnp.arange(8.0).reshape(4, 2)
    for equation in ("abc,cd->abd", "abc,cd->dab"):
        own, plain = (
            jax.grad(lambda x, w, f=f: jnp.sin(f(equation, x, w)).sum(), (0, 1))(x, w)  # noqa: B023
            for f in (products.einsum, jnp.einsum)
        )
        np.testing.assert_allclose(own[0], plain[0], rtol=1e-5)
        np.testing.assert_allclose(own[1], plain[1], rtol=1e-5)


@pytest.mark.parametrize("family", subjects.FAMILIES)
def test_a_step_in_float32_is_float32(family):
    model, batch = subjects.model(family), subjects.batch()
    objective = subjects.OBJECTIVES["sft"].make()
    run = make_gradients(model, objective, chunk=subjects.CHUNK)
    params = {"model": model.abstract, "adapters": None}
    holes = jax.tree.map(lambda _: None, params)
    step = lambda params: run(params, holes, batch, jax.random.key(0), lambda x: x)
    assert check(step, params) > 10


@pytest.mark.parametrize("adapter", subjects.OF_WEIGHTS)
def test_adapters_are_merged_and_applied_in_float32(adapter):
    model = subjects.model(subjects.PLAIN)
    adapters = jax.eval_shape(lambda: subjects.adapters(adapter, subjects.PLAIN))
    check(lambda w, own: protocol.merge(w, own, model.linears), model.abstract, adapters)
    batch = subjects.batch()
    where = dict(positions_BT=batch["positions"], segments_BT=batch["segments"])
    run = lambda w, own: model.hidden(w, batch["tokens"], adapters=own, **where)
    assert check(run, model.abstract, adapters) >= 9


def test_starts_are_made_in_float32():
    w, key = jnp.ones((8, 6)), jax.random.key(0)
    for start in inits.INITS.values():
        check(lambda w, start=start: start(key, w, 2, 1.0), w)


def source():
    """Yield the file and the syntax of every product that is written in the package."""
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
                # Where only NumPy is imported, operands are its own: its products are exact.
                yield path, node, "jax.numpy" not in text
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "jnp.einsum", "jnp.dot", "jnp.matmul", "jax.lax.ragged_dot", "jax.lax.dot_general",
            ):  # fmt: skip
                exact = any(k.arg in ("precision", None) for k in node.keywords)
                yield path, node, exact


def test_every_product_names_its_precision():
    """A product of one operand moves axes and multiplies nothing."""
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:60]}"
        for path, node, exact in source()
        if not exact and not (isinstance(node, ast.Call) and len(node.args) == 2)
    ]
    assert not bare, bare


@pytest.mark.parametrize(
    ("platform", "devices", "dtype", "sum_is_float32"),
    [
        ("gpu", 1, jnp.bfloat16, False), ("gpu", 2, jnp.bfloat16, True),
        ("tpu", 1, jnp.bfloat16, True), ("gpu", 1, jnp.float32, True),
    ],
)  # fmt: skip
def test_a_kernel_rounds_on_a_single_gpu_alone(
    platform, devices, dtype, sum_is_float32, monkeypatch
):
    """Values and gradients; where devices add, what they add is float32."""
    monkeypatch.setattr(meshes, "platform", lambda: platform)
    x = jax.ShapeDtypeStruct((4, 4), dtype)
    loss = lambda x, w: products.matmul(x, w).astype(jnp.float32).sum()
    with jax.set_mesh(meshes.make(devices=jax.devices()[:devices])):
        text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, x))
    results = [line for line in text.splitlines() if "dot_general" in line]
    assert len(results) == 3
    assert all((":f32[" in line) == sum_is_float32 for line in results), results
