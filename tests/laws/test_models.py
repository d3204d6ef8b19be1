"""Laws of every model family.

A family costs what its programs take to compile: all laws here share one batch shape, one handle
whose head is its own, and so one program with a gradient and one without.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ftjax.models.families
from ftjax.core import einsum, tree
from ftjax.models import base
from ftjax.models.hf import checkpoint
from ftjax.objectives import sft
from ftjax.train.policy import Policy
from tests.laws import subjects

each = pytest.mark.parametrize("family", subjects.FAMILIES)
ROWS = 5  # the segments of the batch, each of which gets a row of its own
LOOP = dict(remat="full", scan=False)  # against keeping all in a scan


def model(family, **options):
    return subjects.model(family, tied=False, **options)


def weights(family):
    return subjects.weights(family, tied=False)


def filled(batch):
    """Pad a batch to the one shape of this file."""
    missing = lambda x: ((0, ROWS - x.shape[0]), (0, subjects.T - x.shape[1]))
    return {name: np.pad(x, missing(x)) for name, x in batch.items()}


def whole_batch():
    return filled(subjects.batch())


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(handle, params, batch, share):
    """Compute the loss and its gradient; `share`: of the terms that a family adds, traced."""

    def loss(params):
        policy = Policy(handle, {"model": params}, subjects.CHUNK, own_terms=[])
        nll = sft.make()(policy, policy, batch, None)["loss"].value()
        return nll + share * sum(own["loss"].value() for own in policy.own_terms)

    return jax.value_and_grad(loss)(params)


@functools.cache
def reference(family):
    return loss_and_gradient(model(family, remat="none"), weights(family), whole_batch(), 1.0)


def test_every_family_is_found():
    folder = pathlib.Path(ftjax.models.families.__file__).parent
    defining = {p.stem for p in folder.glob("*.py") if "\ndef from_hf(" in p.read_text()}
    assert defining == set(subjects.FAMILIES) | set(subjects.WRAPPERS)
    for name in subjects.WRAPPERS:
        assert checkpoint.family_of(name).WRAPS in subjects.FAMILIES


@each
def test_declarations_agree(family):
    handle = model(family)
    arrays = tree.paths(weights(family))
    letters, equations = tree.paths(handle.axes), handle.equations
    assert list(arrays) == list(letters) == list(equations) == list(tree.paths(handle.abstract))
    for path, array in arrays.items():
        stack = handle.stacks.get(path.split("/")[0], ())
        sizes = handle.config.sizes | {"L": len(stack)}
        assert einsum.sizes(letters[path], array.shape).items() <= sizes.items()
        assert array.dtype == jnp.float32
    maps = {path for path, equation in equations.items() if equation}
    assert set(handle.linears) == maps
    assert [path for path, site in handle.linears.items() if site.is_lookup] == ["embed"]
    for path, site in handle.linears.items():
        stack = () if site.stack is None else (site.stack,)
        assert arrays[path].shape == stack + site.shape


@pytest.mark.parametrize("family", subjects.by_program())
def test_a_loop_that_keeps_nothing_computes_the_same(family):
    computes_the_same(family, **LOOP)


@pytest.mark.parametrize("remat", ["light", "full", "light_offload", "full_offload"])
def test_what_is_kept_changes_nothing(remat):
    computes_the_same(subjects.PLAIN, remat=remat)


def computes_the_same(family, **options):
    handle = model(family, **options)
    assert handle != model(family, remat="none")
    loss, grads = loss_and_gradient(handle, weights(family), whole_batch(), 1.0)
    expected_loss, expected_grads = reference(family)
    subjects.close(loss, expected_loss)
    subjects.close(grads, expected_grads)


@each
def test_every_parameter_has_a_gradient(family):
    for path, gradient in tree.paths(reference(family)[1]).items():
        if path.rpartition("/")[2] in base.BUFFERS:
            continue
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


def rows_apart(batch):
    """Put every segment of a batch into a row of its own, left-aligned."""
    rows = []
    for row in range(len(batch["tokens"])):
        for segment in np.unique(batch["segments"][row]):
            if segment == 0:
                continue
            inside = batch["segments"][row] == segment
            pad = lambda leaf, inside=inside, row=row: np.pad(
                leaf[row][inside], (0, subjects.T - inside.sum())
            )
            rows.append(jax.tree.map(pad, batch) | {"at": np.flatnonzero(inside), "row": row})
    found = {k: np.stack([r[k] for r in rows]) for k in batch}
    found["segments"] = (found["segments"] > 0).astype(np.int32)
    return rows, found


@each
def test_a_packed_row_is_its_examples_apart(family):
    handle, params, batch = model(family, remat="none"), weights(family), whole_batch()
    rows, apart = rows_apart(batch)
    assert len(rows) == ROWS > len(subjects.batch()["tokens"])
    packed, single = (np.asarray(subjects.forward(handle, params, b)) for b in (batch, apart))
    for i, row in enumerate(rows):
        own = packed[row["row"], row["at"]]
        np.testing.assert_allclose(own, single[i, : len(own)], rtol=1e-4, atol=1e-5)
    assert np.isfinite(packed).all()
    subjects.close(loss_and_gradient(handle, params, apart, 1.0), reference(family))


@each
def test_no_gradient_crosses_segments(family):
    handle, params = model(family, remat="none"), weights(family)
    batch = {name: leaf[:1] for name, leaf in subjects.batch().items()}
    first = batch["segments"][0] == 1
    batch["tokens"] = np.where(first, 1 + np.arange(subjects.T), 30 + np.arange(subjects.T))[None]
    batch["weights"] = batch["weights"] * (batch["segments"] == 2)
    # The negative log-likelihood alone: a family's own terms, such as load balancing, are of all.
    found = loss_and_gradient(handle, params, filled(batch), 0.0)
    gradient = np.asarray(found[1]["embed"])
    inside, outside = batch["tokens"][0, ~first][:-1], batch["tokens"][0, first]
    assert (np.abs(gradient[inside]).max(1) > 0).all()
    assert not gradient[outside].any()


@each
def test_no_later_token_matters(family):
    handle, params, batch = model(family, remat="none"), weights(family), whole_batch()
    changed = batch | {"tokens": batch["tokens"].copy()}
    changed["tokens"][:, -1] = (changed["tokens"][:, -1] + 1) % 64
    before, after = (np.asarray(subjects.forward(handle, params, b)) for b in (batch, changed))
    seen = batch["segments"][:, :-1] > 0
    np.testing.assert_array_equal(before[:, :-1][seen], after[:, :-1][seen])
    assert np.abs(before[:, -1] - after[:, -1]).max() > 0


@each
def test_cached_decoding_is_the_full_forward_pass(family):
    handle, params = model(family, remat="none"), weights(family)
    prompt = np.array([3, 6, 1])  # lengths; right-padded
    rows, steps, width = len(prompt), 5, int(max(prompt))
    lengths = prompt + steps
    length = int(max(lengths))
    tokens = np.random.default_rng(3).integers(1, 64, (rows, length)).astype(np.int32)
    at = np.broadcast_to(np.arange(length), tokens.shape)
    inside = (at < lengths[:, None]).astype(np.int32)
    whole = filled({"tokens": tokens, "positions": at, "segments": inside})
    full = subjects.forward(handle, params, whole)
    cache = handle.init_cache(batch=rows, length=length)
    real = (at < prompt[:, None]).astype(np.int32)[:, :width]
    first = {"tokens": tokens[:, :width] * real, "positions": at[:, :width], "segments": real}
    x, cache = subjects.forward(handle, params, first, cache=cache)
    for row, n in enumerate(prompt):
        subjects.close(x[row, :n], full[row, :n])
    for i in range(steps):
        now = (prompt + i)[:, None]
        one = {"tokens": np.take_along_axis(tokens, now, 1), "positions": now}
        one["segments"] = np.ones_like(now)
        x, cache = subjects.forward(handle, params, one, cache=cache)
        subjects.close(x[:, 0], full[np.arange(rows), now[:, 0]])


@each
def test_padding_writes_no_cache(family):
    handle, params = model(family, remat="none"), weights(family)
    cache = jax.tree.map(lambda x: x + 7.0, handle.init_cache(batch=1, length=4))
    padding = dict(tokens=np.zeros((1, 2), int), positions=np.array([[0, 3]]))
    _, after = subjects.forward(
        handle, params, padding | {"segments": np.array([[0, 0]])}, cache=cache
    )
    subjects.close(after, cache, atol=0)


@functools.partial(jax.jit, static_argnums=0)
def with_routes(handle, params, batch):
    """Compute hidden states, and which experts every layer with experts chose, [..., B, T, top]."""
    x, aux = handle.hidden(
        params, batch["tokens"], positions_BT=batch["positions"],
        segments_BT=batch["segments"], aux=True,
    )  # fmt: skip
    return x, [jnp.sort(own["choice"].expert) for own in aux.values() if own]


@each
def test_computation_in_bfloat16_is_near(family):
    handle, params, batch = model(family, remat="none"), weights(family), whole_batch()
    half = dataclasses.replace(handle, dtype=jnp.dtype(jnp.bfloat16))
    (got, ours), (exact, wanted) = (with_routes(h, params, batch) for h in (half, handle))
    assert (got.dtype, exact.dtype) == (jnp.bfloat16, jnp.float32)
    seen = batch["segments"] > 0
    for a, b in zip(ours, wanted, strict=True):
        # A router that rounds may send a token to another expert, whose output is another.
        seen &= np.asarray((a == b).all(-1)).all(0)
    assert seen.sum() > 0.8 * (batch["segments"] > 0).sum()
    difference = jnp.abs(got.astype(jnp.float32) - exact)[seen]
    assert 0 < float(difference.mean()) < 0.04 * float(jnp.abs(exact[seen]).mean())
