"""Every fast form is its plain twin, in value and in gradient, and runs on its own platform alone.

A new form is found in its module. It needs a twin of its name in `plain` and cases here.
"""

import collections
import importlib
import pkgutil
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import einsum
from ftjax.ops import fast
from ftjax.ops.fast import by_platform, cpu, flash, plain

SIZES = dict(B=2, T=5, D=24, N=2, H=4, F=10, V=7, E=3, R=2)


class Case(NamedTuple):
    """Arguments of a form: `arrays` are differentiated, `before` and `after` stand around them."""

    arrays: tuple
    before: tuple = ()
    after: tuple = ()


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


def of_letters(letters, seed=0):
    return draw(*(SIZES[c] for c in letters), seed=seed)


def contractions():
    """Both orders of a weight, more and fewer letters; what does not flatten."""
    for equation in (
        "BTD,DNH->BTNH", "BTNH,NHD->BTD", "BTD,DF->BTF", "BTF,FD->BTD", "BTD,VD->BTV",
        "BTD,NDH->BTNH", "EBD,EDF->EBF", "D,DF->F",
    ):  # fmt: skip
        e = einsum.parse(equation)
        yield Case((of_letters(e.x), of_letters(e.w)), (equation,))


def low_rank_contractions():
    for equation in ("BTD,DNH->BTNH", "BTNH,NHD->BTD", "BTF,FD->BTD", "BTD,VD->BTV"):
        e, low = einsum.parse(equation), einsum.lora(equation)
        letters = e.x, e.w, low.a, low.b
        yield Case((*map(of_letters, letters), jnp.float32(0.5)), (equation,))


def transposed_products():
    for rows, wide, narrow in ((1, 3, 2), (40, 24, 1), (40, 24, 3), (7, 5, 5)):
        yield Case((draw(rows, wide), draw(rows, narrow)))


def attentions():
    """Grouped heads, keys before the others, a cap; one block of queries and several."""
    for T, before, cap in ((5, 0, None), (4, 3, 2.0), (2 * flash.LEAST_BLOCK - 60, 2, 1.5)):
        S, (at, to) = before + T, np.ogrid[:T, : before + T]
        seen = (to <= before + at) & ((draw(T, S) > -1) | (to == before + at))
        mask_BTS = jnp.stack([seen, to <= before + at])
        arrays = draw(2, 2, 3 * T, 4), draw(2, 2, S, 4, seed=1), draw(2, 2, S, 6, seed=2)
        yield Case(arrays, after=(mask_BTS, 0.7, cap))


def groups():
    """Experts with several blocks, with one, with none; then the values of rows behind the last."""
    for blocks, size in (((2, 0, 1), 4), ((0, 3, 0), 1), ((1, 1, 1), 8)):
        counts, expert_J = size * jnp.array(blocks), jnp.repeat(jnp.arange(3), jnp.array(blocks))
        x, w_EIO = draw(size * sum(blocks), 6), draw(3, 6, 5)
        yield Case((x, w_EIO), after=(counts, expert_J))
        behind = jnp.pad(x, ((0, size), (0, 0))), w_EIO, counts, jnp.append(expert_J, 2)
        yield Case((), after=behind)


def rows_of_logits():
    """Rows with ties, zeros of both signs and what was cut off."""
    yield draw(3, 50)
    yield draw(1, 1)
    yield 2 * draw(4, 300).round(1)
    yield jnp.array([[0.0, -0.0, -1.0, -jnp.inf], [-jnp.inf, -3.0, -3.0, -jnp.inf]])


def argmaxes():
    return (Case((), (x,)) for x in rows_of_logits())


def thresholds():
    for x in rows_of_logits():
        yield Case((), (x, jnp.ones_like(x), 1))
        yield Case((), (x, jax.nn.softmax(x), jnp.linspace(0.9, 0.03, len(x))[:, None]))


def look_ups():
    for bits in (1, 2, 4):
        codes = np.random.default_rng(0).integers(2**bits, size=(3, 40), dtype=np.uint8)
        yield Case((), (jnp.asarray(codes), np.sort(draw(2**bits))))


CASES = {
    "argmax": argmaxes,
    "attend": attentions,
    "contract": contractions,
    "contract_low_rank": low_rank_contractions,
    "grouped_matmul": groups,
    "look_up": look_ups,
    "threshold": thresholds,
    "transposed_product": transposed_products,
}


def public_functions(module):
    """Return the functions that a module defines itself, or makes."""
    own = {name: f for name, f in vars(module).items() if callable(f) and name[0].islower()}
    return {name: f for name, f in own.items() if f.__module__.startswith(fast.__name__)}


def forms():
    """List (module, name) of every form in the room, the chosen ones among them."""
    names = {m.name for m in pkgutil.iter_modules(fast.__path__)} - {"plain"}
    modules = {name: importlib.import_module(f"{fast.__name__}.{name}") for name in names}
    return sorted((m, name) for m, module in modules.items() for name in public_functions(module))


FORMS = forms()


def test_every_form_has_a_twin_cases_and_a_place_in_the_seam():
    names = {name for _, name in FORMS}
    assert {"cpu", "portable", "flash", "by_platform"} <= {module for module, _ in FORMS}
    assert names == set(public_functions(plain)) == set(fast.__all__) == set(CASES)


@pytest.mark.parametrize(("module", "name"), FORMS)
def test_a_form_is_its_plain_twin(module, name):
    form = vars(importlib.import_module(f"{fast.__name__}.{module}"))[name]
    for case in CASES[name]():
        got, wanted = (jax.jit(outcome(f, case))(*case.arrays) for f in (form, vars(plain)[name]))
        for ours, theirs in zip(*map(jax.tree.leaves, (got, wanted)), strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def outcome(form, case):
    """Make the function of a case's arrays that gives values, and gradients by all of them."""

    def run(*arrays):
        y, pull = jax.vjp(lambda *a: form(*case.before, *a, *case.after), *arrays)
        cotangent = lambda leaf: draw(*leaf.shape, seed=1)
        return y, pull(jax.tree.map(cotangent, y)) if arrays else ()

    return run


@pytest.mark.parametrize("name", sorted(public_functions(by_platform)))
def test_a_form_is_chosen_by_what_a_program_is_lowered_for(name):
    """A program for a TPU has the plain form, though it is lowered on a host without one."""
    chosen, own, twin = (vars(module)[name] for module in (by_platform, cpu, plain))
    case = list(CASES[name]())[-1]
    assert operations(chosen, case, "tpu") == operations(twin, case, "tpu")
    assert operations(chosen, case, "cpu") == operations(own, case, "cpu")
    assert operations(own, case, "cpu") != operations(twin, case, "cpu")


def operations(form, case, platform):
    """Count the operations of a lowered program, without those of the choice itself."""
    arguments = (*case.before, *case.arrays, *case.after)
    lowered = jax.jit(form).trace(*arguments).lower(lowering_platforms=(platform,))
    found = collections.Counter(re.findall(r"\b(?:stablehlo|chlo)\.\w+", lowered.as_text()))
    # What was chosen stands in a `case` of one branch, under a constant.
    choice = {f"stablehlo.{name}" for name in ("case", "return", "constant")}
    return {name: count for name, count in found.items() if name not in choice}
