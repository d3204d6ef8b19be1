"""Every fast form is its plain twin, in value and in gradient, and runs on its own platform alone.

A new form is found in its module. It needs a twin of its name in `plain` and cases here.
"""

import collections
import functools
import importlib
import itertools
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
from ftjax.ops.visible import visible_keys

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


def packed(T, before=0, window=None):
    """Describe two rows, of three segments and of one with padding, whose positions rise too."""
    starts = [0, T // 4, T // 2]
    segments = np.searchsorted(starts, np.arange(T), side="right")
    positions = np.arange(T) - np.array(starts)[segments - 1]
    other = np.arange(T) < T - 3
    padded = np.where(other, np.arange(T), np.arange(T) - T + 3)
    rows = np.stack([positions, padded]), np.stack([segments, other])
    return visible_keys(*(jnp.asarray(x, jnp.int32) for x in rows), before=before, window=window)


def attentions():
    """Grouped heads, keys before the others, windows, caps, sinks; one block of queries, more."""
    some = [(5, 0, None, None), (4, 3, 2, 2.0), (2 * flash.BLOCK - 60, 2, None, 1.5),
            (flash.LONGEST + 40, 3, None, 1.5), (flash.LONGEST + 200, 0, 90, None)]  # fmt: skip
    for T, before, window, cap in some:
        S = before + T
        arrays = draw(2, T, 4, 4), draw(2, S, 2, 4, seed=1), draw(2, S, 2, 6, seed=2)
        seen = packed(T, before, window)
        if before:
            yield Case(arrays, after=(None, seen, 0.7, cap))
        else:
            yield Case((*arrays, draw(4, seed=3)), after=(seen, 0.7, cap))


def kernel_attentions():
    """What the kernels are chosen for."""
    for heads, window, cap in ((2, None, None), (1, 40, 1.5)):
        arrays = draw(2, 256, 2, 8), draw(2, 256, heads, 8, seed=1), draw(2, 256, heads, 8, seed=2)
        yield Case(arrays, after=(None, packed(256, window=window), 0.7, cap))


def kernel_attentions_with_sinks():
    yield from kernel_attentions()
    arrays = draw(2, 128, 2, 8), draw(2, 128, 1, 8, seed=1), draw(2, 128, 1, 8, seed=2)
    yield Case((*arrays, draw(2, seed=3)), after=(packed(128), 0.7, None))


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


def turns():
    yield Case((of_letters("BT"), {"a": of_letters("D"), "b": jnp.float32(2.0)}))


CASES = {
    "argmax": argmaxes,
    "attend": attentions,
    "contract": contractions,
    "contract_low_rank": low_rank_contractions,
    "grouped_matmul": groups,
    "in_turn": turns,
    "look_up": look_ups,
    "threshold": thresholds,
    "transposed_product": transposed_products,
}


# Kernels of other backends take less, and here they are run by what stands in for them.
SPECIAL = {
    ("by_platform", "attend"): ({}, lambda: itertools.islice(attentions(), 1)),  # `flash` has all
    ("gpu", "attend"): (
        dict(implementation="xla"),
        lambda: (case for case in kernel_attentions() if case.after[-1] is None),
    ),
    ("tpu", "attend"): (dict(interpret=True), kernel_attentions_with_sinks),
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
    rooms = {"cpu", "portable", "flash", "pairs", "gpu", "tpu", "by_platform"}
    assert rooms <= {module for module, _ in FORMS}
    assert names == set(public_functions(plain)) == set(fast.__all__) == set(CASES)


@pytest.mark.parametrize(("module", "name"), FORMS)
def test_a_form_is_its_plain_twin(module, name):
    stand_in, cases = SPECIAL.get((module, name), ({}, CASES[name]))
    form = vars(importlib.import_module(f"{fast.__name__}.{module}"))[name]
    form = functools.partial(form, **stand_in) if stand_in else form
    for case in cases():
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


@pytest.mark.parametrize("name", sorted(public_functions(cpu)))
def test_a_form_is_chosen_by_what_a_program_is_lowered_for(name):
    """A program for a TPU has the plain form, though it is lowered on a host without one."""
    chosen, own, twin = (vars(module)[name] for module in (by_platform, cpu, plain))
    case = list(CASES[name]())[-1]
    assert operations(chosen, case, "tpu") == operations(twin, case, "tpu")
    assert operations(chosen, case, "cpu") == operations(own, case, "cpu")
    assert operations(own, case, "cpu") != operations(twin, case, "cpu")


def test_the_kernel_of_a_tpu_is_chosen_when_a_program_is_lowered_for_one():
    """With its gradient, on a host without a TPU; not where it would compute something else."""
    calls = lambda T, dtype, platform, before=0: lowered(T, dtype, platform, before).count(KERNEL)
    assert calls(256, jnp.bfloat16, "tpu") == 3  # forward, and two for the gradients
    assert calls(256, jnp.bfloat16, "cpu") == 0
    assert calls(256, jnp.float32, "tpu") == 0  # it would multiply in bfloat16
    assert calls(200, jnp.bfloat16, "tpu") == 0
    assert calls(256, jnp.bfloat16, "tpu", before=2) == 0


KERNEL = "tpu_custom_call"


def lowered(T, dtype, platform, before):
    """Lower attention and its gradient for a platform: the text of the program."""
    q, k = (jax.ShapeDtypeStruct((2, n, 2, 128), dtype) for n in (T, T + before))
    seen = jax.eval_shape(lambda: packed(T, before))

    def loss(q, k, v, seen):
        return jnp.square(fast.attend(q, k, v, None, seen, 0.1, None).astype(jnp.float32)).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, k, seen)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def operations(form, case, platform):
    """Count the operations of a lowered program, without those of the choice itself."""
    arguments = (*case.before, *case.arrays, *case.after)
    lowered = jax.jit(form).trace(*arguments).lower(lowering_platforms=(platform,))
    found = collections.Counter(re.findall(r"\b(?:stablehlo|chlo)\.\w+", lowered.as_text()))
    # What was chosen stands in a `case` of one branch, under a constant.
    choice = {f"stablehlo.{name}" for name in ("case", "return", "constant")}
    return {name: count for name, count in found.items() if name not in choice}
