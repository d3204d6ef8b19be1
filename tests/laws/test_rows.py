"""Laws of batches whose rows use different adapters, for every method that changes weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.adapters.multi import per_row as rows
from ftjax.core import tree
from ftjax.models.base import Linear
from ftjax.models.families import mixtral
from tests.laws import subjects

WHICH = np.array([2, 0, 3, 1])
FAMILY = subjects.PLAIN


def members(name, count=4, where="blocks/**"):
    """Draw adapters that differ in all that trains."""
    start = subjects.adapters(name, FAMILY, where=where)
    moved = lambda x, seed: subjects.replace_data(subjects.jitter(x, scale=0.3, seed=seed), x)
    return [
        jax.tree.map(lambda x, seed=seed: moved(x, seed), start, is_leaf=protocol.is_adapter)
        for seed in range(count)
    ]


def mixed(found, which=WHICH):
    return rows.select(rows.stack(found, linears=subjects.model(FAMILY).linears), jnp.array(which))


def check(found, which=WHICH):
    """Compare each row of a mixed batch with a forward pass of its adapter alone."""
    handle, params, batch = subjects.model(FAMILY), subjects.weights(FAMILY), subjects.batch()
    together = subjects.forward(handle, params, batch, adapters=mixed(found, which))
    for row, member in enumerate(which):
        alone = subjects.forward(handle, params, batch, adapters=found[member])
        subjects.close(together[row], alone[row], atol=1e-4)
    assert float(jnp.abs(together - subjects.forward(handle, params, batch)).max()) > 1e-2


@pytest.mark.parametrize("name", subjects.OF_WEIGHTS)
def test_a_mixed_batch_is_each_adapter_alone(name):
    check(members(name))


@pytest.mark.parametrize("name", subjects.OF_WEIGHTS)
def test_letters_of_a_mixed_batch(name):
    handle, found = subjects.model(FAMILY), mixed(members(name, where="blocks/attn/q"))
    arrays, letters = tree.paths(found), tree.paths(protocol.axes(found, handle.linears))
    assert arrays.keys() == letters.keys()
    for path, array in arrays.items():
        assert array.ndim == len(letters[path]), path
        assert ("M" in letters[path]) == ("/members/" in path)
        assert array.shape[letters[path].find("M")] == 4 or "M" not in letters[path]


def test_ranks_and_sites_may_differ():
    short = subjects.adapters("lora", FAMILY, where="blocks/attn/*")
    keep = lambda x: lora.LoRA(x.a[..., :2], 1 + x.b[:, :2], x.scale)
    short = jax.tree.map(keep, short, is_leaf=protocol.is_adapter)
    check([short, *members("lora", 2), {}], [3, 0, 2, 1])


@pytest.mark.parametrize("name", subjects.OF_WEIGHTS)
def test_zeros_in_place_of_ranks_change_nothing(name):
    equation, w = "BTD,DF->BTF", jax.random.normal(jax.random.key(0), (6, 10))
    site = Linear(equation, w.shape, None)
    small = subjects.randomised(tree.unshared(subjects.method(name)(jax.random.key(3), site, w)))
    pad = lambda own, x: jnp.pad(x, [(0, 3 * (c == "R")) for c in own]) if own else x
    large = jax.tree.map(pad, tree.unshared(small.axes(equation)), small)
    if not small.PADS:
        shapes = (jax.tree.map(jnp.shape, x) for x in (small, large))
        if len({str(shape) for shape in shapes}) > 1:
            with pytest.raises(ValueError, match="expected the same sizes"):
                rows.stack([{"q": small}, {"q": large}], linears={"q": site})
        return
    subjects.close(large.merge(equation, w), small.merge(equation, w))
    both = rows.stack([{"q": small}, {"q": large}], linears={"q": site})
    assert jax.tree.map(jnp.shape, both["q"].members) == jax.tree.map(
        lambda x: (2, *x.shape), large
    )


def test_every_row_has_its_own_dropout_and_its_own_embedding():
    where = ["blocks/attn/q", "embed"]
    handle, batch = subjects.model(FAMILY, tied=False), subjects.batch()
    params = subjects.weights(FAMILY, tied=False)
    found = [
        subjects.jitter(subjects.adapters("lora", FAMILY, where=where, tied=False), scale=s, seed=1)
        for s in (0.1, 0.2)
    ]
    both = rows.select(rows.stack(found, linears=handle.linears), jnp.array([0, 1, 1, 0]))
    got = subjects.forward(handle, params, batch, adapters=both)
    for row, member in enumerate([0, 1, 1, 0]):
        alone = subjects.forward(handle, params, batch, adapters=found[member])
        subjects.close(got[row], alone[row], atol=1e-4)
    same = jax.tree.map(lambda x: x[:1].repeat(4, 0), batch)
    dropping = lambda x: lora.LoRA(x.a, x.b, x.scale, 0.5)
    noisy = [jax.tree.map(dropping, found[0]["blocks"], is_leaf=protocol.is_adapter)] * 2
    noisy = rows.stack([{"blocks": x} for x in noisy], linears=handle.linears)
    noisy = rows.select(noisy, jnp.zeros(4, jnp.int32))
    x = subjects.forward(handle, params, same, adapters=noisy, key=jax.random.key(0))
    assert len({row.tobytes() for row in np.asarray(x)}) == 4


def test_experts_with_seats_take_rows_and_others_say_so():
    family = mixtral.__name__.rpartition(".")[2]
    seated = subjects.model(family, dispatch="capacity", capacity_factor=8.0)
    params, batch = subjects.weights(family), subjects.batch()
    start = subjects.adapters("lora", family, where="blocks/moe/*")
    found = [subjects.jitter(start, scale=0.2, seed=s) for s in range(2)]
    which = jnp.array([0, 1, 1, 0])
    both = rows.select(rows.stack(found, linears=seated.linears), which)
    got = subjects.forward(seated, params, batch, adapters=both)
    for row, member in enumerate(which.tolist()):
        alone = subjects.forward(seated, params, batch, adapters=found[member])
        subjects.close(got[row], alone[row], atol=1e-4)
    with pytest.raises(ValueError, match=r"expected model\.dispatch = 'capacity'"):
        subjects.forward(subjects.model(family), params, batch, adapters=both)


def test_what_cannot_be_mixed_says_so():
    linears = subjects.model(FAMILY).linears
    a, b = (subjects.adapters(name, FAMILY, where="blocks/attn/q") for name in ("lora", "dora"))
    with pytest.raises(ValueError, match="got DoRA, LoRA; expected adapters of one method"):
        rows.stack([a, b], linears=linears)
    with pytest.raises(ValueError, match="expected adapters of weights"):
        rows.stack([subjects.adapters("prompt", FAMILY)], linears=linears)
    head = subjects.adapters("lora", FAMILY, where="head", tied=False)
    untied = subjects.model(FAMILY, tied=False)
    with pytest.raises(ValueError, match="leave out the head"):
        untied.head(
            subjects.weights(FAMILY, tied=False), rows.stack([head], linears=untied.linears)
        )
    with pytest.raises(ValueError, match=r"got \(1,\) for the rows' adapters in a batch of 4"):
        subjects.forward(
            subjects.model(FAMILY), subjects.weights(FAMILY), subjects.batch(),
            adapters=rows.stack([a], linears=linears),
        )  # fmt: skip
