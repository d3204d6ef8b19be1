"""Logits, losses and gradients of every family against the reference implementation."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import tree
from ftjax.models import base as models
from ftjax.models.hf import checkpoint
from tests.golden import reference

FOLDERS = reference.model_folders()
each = pytest.mark.parametrize("folder", FOLDERS, ids=reference.id_of)


@pytest.fixture(scope="module")
def results(golden, quick_compiles):
    """Evaluate every family once."""
    found = {}
    for folder in FOLDERS:
        _, model, params = reference.base(folder)
        io = reference.io(folder)
        batch = reference.batch_of(io["input_ids"], io["attention_mask"])
        params = {"model": params, "adapters": None}
        found[folder] = io, reference.evaluate(model, "model", params, batch)
    return found


def test_every_family_that_we_have_is_here(golden, results):
    types = {reference.read(f / checkpoint.CONFIG)["model_type"] for f in results}
    all_types = {reference.read(path)["model_type"] for path in golden.glob("models/*/config.json")}
    assert types == all_types & reference.SUPPORTED
    assert types


@each
def test_both_dialects_say_the_same(folder):
    family = checkpoint.family_of(reference.read(folder / checkpoint.CONFIG)["model_type"])
    new, old = (family.from_hf(reference.read(folder / f"config{v}.json")) for v in ("", ".v4"))
    assert new == old == family.from_hf(family.to_hf(new))


@each
def test_logits(folder, results):
    io, ours = results[folder]
    seen = io["attention_mask"] == 1
    np.testing.assert_allclose(ours["logits"][seen], io["logits"][seen], rtol=1e-4, atol=1e-4)


SHORT = [folder for folder in FOLDERS if "logits_short" in reference.io(folder)]


@pytest.mark.parametrize("folder", SHORT, ids=reference.id_of)
def test_logits_of_short_rows(folder, quick_compiles):
    """Longrope has other factors where the context is short."""
    _, model, params = reference.base(folder)
    io = reference.io(folder)
    wanted = io["logits_short"]
    tokens = io["input_ids"][:, : wanted.shape[1]]
    batch = reference.batch_of(tokens, np.ones_like(tokens))
    x = model.hidden(
        params, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segments"]
    )
    np.testing.assert_allclose(model.logits(params, x), wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(wanted - io["logits"][:, : wanted.shape[1]]).max() > 0.1


@each
def test_log_probabilities_and_loss(folder, results):
    io, ours = results[folder]
    target = io["attention_mask"][:, 1:] == 1
    np.testing.assert_allclose(
        ours["logp"][target], io["token_logprobs"][target], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(ours["loss"], io["loss"], rtol=1e-5, atol=1e-5)


def in_memory(name):
    """Name the reference's parameter that a tensor is part of; it fuses a layer's experts."""
    name = name.replace("block_sparse_moe", "mlp")
    name = re.sub(r"experts\.\d+\.(w1|w3|gate_proj|up_proj)\.weight", "experts.gate_up_proj", name)
    return re.sub(r"experts\.\d+\.(w2|down_proj)\.weight", "experts.down_proj", name)


@each
def test_gradient_norm_of_every_parameter(folder, results):
    family, model, _ = reference.base(folder)
    grads, expected = results[folder][1]["grads"], reference.read(folder / "meta.json")
    if "grad_norms" not in expected:
        pytest.skip("no gradients in this set")
    arrays = {path: np.asarray(g) for path, g in tree.paths(grads).items()}
    squares = collections.Counter()
    for path, stored in checkpoint.stored(model, family.NAMES).items():
        for index, name in stored.names():
            squares[in_memory(name)] += float(np.square(arrays[path][index]).sum())
    norms = {name: square**0.5 for name, square in squares.items()}
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-3, abs=1e-5)


@each
def test_hidden_states_of_every_depth(folder, results):
    io, ours = results[folder]
    if "hidden_states" not in io:
        pytest.skip("no hidden states in this set")
    _, model, params = reference.base(folder)
    states, seen = io["hidden_states"], io["attention_mask"] == 1
    assert len(states) == model.config.layers + 1
    batch, ends = reference.batch_of(io["input_ids"], io["attention_mask"]), model.ends_of(params)
    embedded = ends.enter(batch["tokens"], batch["positions"], models.Site({}, None))
    np.testing.assert_allclose(embedded[seen], states[0][seen], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours["hidden"][seen], states[-1][seen], rtol=1e-4, atol=1e-4)
    for depth in range(1, model.config.layers):
        # The reference has inner states before the final norm; ours come after it.
        wanted = ends.leave(jnp.asarray(states[depth]))
        short = dataclasses.replace(
            model, config=dataclasses.replace(model.config, layers=depth), scan=True
        )
        cut = {name: leaf for name, leaf in params.items() if name not in model.stacks} | {
            name: jax.tree.map(lambda x, numbers=numbers: x[: len(numbers)], params[name])
            for name, numbers in short.stacks.items()
        }
        got = short.hidden(
            cut, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segments"]
        )
        np.testing.assert_allclose(got[seen], wanted[seen], rtol=1e-4, atol=1e-4)


WITH_EXPERTS = [folder for folder in FOLDERS if "router_logits" in reference.io(folder)]


@pytest.mark.parametrize("folder", WITH_EXPERTS, ids=reference.id_of)
def test_router_logits_and_load_balancing(folder):
    _, model, params = reference.base(folder)
    io = reference.io(folder)
    batch = reference.batch_of(io["input_ids"], io["attention_mask"])
    aux = model.hidden(
        params, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segments"],
        aux=True,
    )[1]  # fmt: skip
    logits = np.asarray(aux["blocks"]["logits"])
    wanted = io["router_logits"].reshape(logits.shape)
    seen = io["attention_mask"] == 1
    np.testing.assert_allclose(logits[:, seen], wanted[:, seen], rtol=1e-4, atol=1e-4)
    terms = model.auxiliary_terms(aux, batch["segments"])
    balance = float(terms["router/balance"].value())
    assert balance == pytest.approx(float(io["aux_loss"]), rel=1e-5)
    coefficient = reference.read(folder / checkpoint.CONFIG)["router_aux_loss_coef"]
    assert float(terms["loss"].value()) == pytest.approx(coefficient * balance, rel=1e-6)
    assert float(terms["router/dropped"].value()) == 0


@each
def test_written_model_is_the_read_one(folder, tmp_path):
    family, model, params = reference.base(folder)
    half = tree.bytes_of(params) / 2e9  # of all, so that there are several files at any size
    checkpoint.save(tmp_path / "out", params, family=family, config=model.config, max_shard_gb=half)
    assert (tmp_path / "out" / checkpoint.INDEX).is_file()
    again_family, config = checkpoint.config_of(tmp_path / "out")
    assert (again_family, config) == (family, model.config)
    again = checkpoint.load(tmp_path / "out", model, names=family.NAMES)
    jax.tree.map(np.testing.assert_array_equal, again, params)
