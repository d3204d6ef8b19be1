"""Laws of every adapter method that changes weights; see `test_virtual` for the others."""

import dataclasses
import functools
import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ftjax.adapters
from ftjax.adapters import lora
from ftjax.adapters.lib import inits, protocol
from ftjax.adapters.peft import io as peft
from ftjax.core import einsum, tree
from ftjax.models.base import Linear
from ftjax.models.hf import checkpoint
from ftjax.ops import grouped, linear, lowrank
from tests.laws import subjects

EQUATIONS = ["BTD,DNH->BTNH", "BTNH,NHD->BTD", "BTF,FD->BTD", "BTD,VD->BTV", "EBD,EDF->EBF"]
SIZES = dict(B=2, T=3, D=6, N=2, H=4, F=10, V=7, E=3, C=2)
each = pytest.mark.parametrize("name", subjects.OF_WEIGHTS)
for_equations = pytest.mark.parametrize("equation", EQUATIONS)


def site(equation):
    e = einsum.parse(equation)
    draw = lambda letters, seed: jax.random.normal(
        jax.random.key(seed), [SIZES[c] for c in letters]
    )
    return draw(e.x, 0), draw(e.w, 1), Linear(equation, tuple(SIZES[c] for c in e.w), None)


def fresh(name, where, w):
    """Initialise one adapter, as one layer sees it."""
    return tree.unshared(subjects.method(name)(jax.random.key(3), where, w))


def has_files(name):
    """Say whether PEFT has the method."""
    kinds = {kind.__module__ for method in peft.formats().values() for kind in method.kinds}
    return subjects.ADAPTERS[name].__name__ in kinds


def test_every_method_is_found():
    folder = pathlib.Path(ftjax.adapters.__file__).parent
    defining = {p.stem for p in folder.glob("*.py") if "\ndef make(" in p.read_text()}
    assert defining == set(subjects.ADAPTERS)
    assert defining


@each
@for_equations
def test_apply_is_the_contraction_with_the_merged_weight(name, equation):
    x, w, where = site(equation)
    adapter = subjects.randomised(fresh(name, where, w))
    merged = adapter.merge(equation, w)
    assert float(jnp.abs(merged - w).max()) > 1e-3  # the adapter does something
    expected = jnp.einsum(equation, x, merged)
    subjects.close(adapter.apply(equation, x, w), expected, atol=1e-4)
    subjects.close(linear.linear(equation, x, w, adapter), expected, atol=1e-4)


@each
@pytest.mark.parametrize("equation", ["EBTD,EDF->EBTF", "EBTD,EDCF->EBTCF", "EBTF,EFD->EBTD"])
def test_rows_grouped_by_expert_get_its_merged_weight(name, equation):
    x, w, where = site(equation)
    adapter = subjects.randomised(fresh(name, where, w))
    expected = jnp.einsum(equation, x, adapter.merge(equation, w))
    experts, *rows = x.shape[:3]
    flat = lambda array: array.reshape(-1, *array.shape[3:])
    groups, places = grouped.arrange(
        jnp.repeat(jnp.arange(experts), np.prod(rows)), experts=experts
    )
    contract = functools.partial(grouped.contract, groups)
    sorted_x = flat(x).at[places.row_at].get(mode="fill", fill_value=0)
    for given in (None, adapter):
        got = linear.linear_rows(equation, sorted_x, w, contract, given)[places.of_row]
        wanted = expected if given is adapter else jnp.einsum(equation, x, w)
        subjects.close(got, flat(wanted), atol=1e-4)


@each
@for_equations
def test_gradients_of_apply_are_those_of_its_definition(name, equation):
    x, w, where = site(equation)
    adapter = subjects.randomised(fresh(name, where, w))
    applied = lambda x, w, adapter: adapter.apply(equation, x, w)
    defined = lambda x, w, adapter: jnp.einsum(equation, x, adapter.merge(equation, w))
    square = lambda y: jnp.square(y).sum()  # a cotangent that differs from place to place
    pulled = (
        jax.jit(jax.grad(lambda *args, run=run: square(run(*args)), (0, 1, 2)))(x, w, adapter)
        for run in (applied, defined)
    )
    subjects.close(*pulled, atol=1e-3)


@each
@for_equations
def test_at_the_start_the_merged_weight_is_the_weight(name, equation):
    _, w, where = site(equation)
    adapter = fresh(name, where, w)
    subjects.close(adapter.merge(equation, w), w, atol=1e-6)


def found_factors(init, equation, w, rank):
    """Make the factors of a start from more than a weight, out of stand-ins for what it needs."""
    m = lowrank.matrix(equation, w)
    match init:
        case "eva":
            moments = m @ m.swapaxes(-1, -2)
            found = jax.vmap(lambda x: inits.eva(x, rank).a)(
                moments.reshape(-1, *moments.shape[-2:])
            )
            a = found.reshape(*m.shape[:-1], rank)
            b = jnp.zeros((*m.shape[:-2], rank, m.shape[-1]))
        case "lora_ga":
            a, b = inits.lora_ga(jax.random.normal(jax.random.key(5), m.shape), rank)
        case "lora_null" | "corda":
            start = lambda w: getattr(inits, init)(jnp.eye(len(w)), w, rank)
            found = jax.vmap(start)(m.reshape(-1, *m.shape[-2:]))
            a, b = (x.reshape(*m.shape[:-2], *x.shape[1:]) for x in found)
        case "loftq":
            a, b = lowrank.triplets(m - jnp.round(m), slice(None, rank))
    return lowrank.factors(equation, w.shape, a, b)


@pytest.mark.parametrize("init", [*inits.INITS, *inits.NEEDS])
@for_equations
def test_every_start_of_lora_is_the_base_or_named_as_another(init, equation):
    _, w, where = site(equation)
    method, key = lora.make(rank=2, alpha=6.0, init=init), jax.random.key(3)
    if init in inits.NEEDS:
        adapter = method.init(key, where, w, found_factors(init, equation, w, 2))
    else:
        adapter = method(key, where, w)
    assert adapter.a.any()
    moved = float(jnp.abs(adapter.merge(equation, w) - w).max())
    if init in inits.NOT_THE_BASE:
        assert moved > 0.1
    else:
        assert moved < 1e-5


def test_every_start_is_listed():
    own = {n: f for n, f in vars(inits).items() if inspect.isfunction(f) and not n.startswith("_")}
    kinds = {n: tuple(inspect.signature(f).parameters) for n, f in own.items()}
    assert {n for n, names in kinds.items() if names == ("key", "w", "rank", "scale")} == set(
        inits.INITS
    )
    found = {n for n, names in kinds.items() if names[0] in ("moments", "gradient")}
    assert found | {"loftq"} == set(inits.NEEDS)
    for named in (inits.DISPLACED, inits.SUBTRACTED, inits.NOT_THE_BASE):
        assert set(named) <= inits.INITS.keys() | inits.NEEDS.keys()


@each
@for_equations
def test_letters_describe_every_array(name, equation):
    _, w, where = site(equation)
    adapter = fresh(name, where, w)
    fields = [f.name for f in dataclasses.fields(adapter) if not f.metadata.get("static")]
    assert set(adapter.FROZEN) <= set(fields)
    arrays, letters = tree.paths(adapter), tree.paths(tree.unshared(adapter.axes(equation)))
    assert arrays.keys() == letters.keys()
    for path, array in arrays.items():
        assert len(letters[path]) == array.ndim
        known = einsum.sizes(letters[path], array.shape)
        assert all(known[c] == SIZES[c] for c in letters[path] if c in SIZES), path


@each
def test_adapters_in_a_model_are_float32_and_stacked(name):
    family = subjects.PLAIN
    handle = subjects.model(family)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), subjects.weights(family))
    draw = lambda key: protocol.init(
        subjects.method(name), key, handle.linears, half, where=["blocks/attn/*"]
    )
    found = jax.jit(draw)(jax.random.key(0))
    letters = tree.paths(protocol.axes(found, handle.linears))
    arrays = tree.paths(found)
    assert letters.keys() == arrays.keys()
    assert set(protocol.sites(found)) == {p for p in handle.linears if p.startswith("blocks/attn/")}
    once = tree.paths(tree.split_shared(found)[0])
    for path, array in arrays.items():
        assert array.dtype == jnp.float32, path
        assert letters[path].startswith("L") == (path not in once), path
        assert array.ndim == len(letters[path]), path
        assert array.shape[0] == handle.config.layers or path in once, path


@each
def test_another_site_changes_no_other(name):
    family = subjects.PLAIN
    few = subjects.adapters(name, family, where="blocks/attn/q")
    many = subjects.adapters(name, family, where="blocks/**")
    subjects.close(few["blocks"]["attn"]["q"], many["blocks"]["attn"]["q"], atol=0)


@each
def test_merging_rounds_once_to_the_type_of_the_weight(name):
    family = subjects.PLAIN
    handle, full = subjects.model(family), subjects.weights(family)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), full)
    found = subjects.randomised(subjects.adapters(name, family, where="blocks/mlp/*"))
    merge = jax.jit(lambda weights: protocol.merge(weights, found, handle.linears))
    merged, exact = merge(half), merge(jax.tree.map(lambda x: x.astype(jnp.float32), half))
    for path, leaf in tree.paths(merged).items():
        assert leaf.dtype == jnp.bfloat16
        rounded = tree.paths(exact)[path].astype(jnp.bfloat16)
        np.testing.assert_array_equal(leaf, rounded, err_msg=path)


@pytest.mark.parametrize("name", [n for n in subjects.ADAPTERS if has_files(n)])
def test_files_mean_the_same_function(name, tmp_path):
    family = subjects.PLAIN
    handle, params = subjects.model(family), subjects.weights(family)
    names = checkpoint.family_of(family).NAMES
    found = subjects.randomised(subjects.adapters(name, family, where="blocks/attn/*"))
    given = dict(linears=handle.linears, names=names)
    example = dict(subjects.ADAPTERS[name].EXAMPLE)
    peft.save(tmp_path / "out", found, base_model=None, hyper=example, **given)
    again = peft.load(tmp_path / "out", **given)
    batch = subjects.batch()
    one, two = (subjects.forward(handle, params, batch, adapters=tree_) for tree_ in (found, again))
    subjects.close(one, two, atol=1e-6)
    assert jax.tree.structure(found) == jax.tree.structure(again)
