"""Norms in PEFT's files: what a base computes with them, their gradients, and the way back."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from ftjax.adapters.peft import io as peft
from ftjax.adapters.peft import ln_tuning
from ftjax.core import tree
from ftjax.models.hf import checkpoint
from tests.golden import reference

FOLDERS = [
    folder for folder in reference.adapter_folders()
    if reference.read(folder / peft.CONFIG)["peft_type"] == ln_tuning.LnTuning.peft_type
]  # fmt: skip
each = pytest.mark.parametrize("folder", FOLDERS, ids=reference.id_of)


def load(folder):
    config = reference.read(folder / peft.CONFIG)
    source = reference.folder() / config["base_model_name_or_path"]
    if reference.read(source / checkpoint.CONFIG)["model_type"] not in reference.SUPPORTED:
        pytest.skip("of a family that has no file yet")
    family, model, params = reference.base(source)
    given = dict(linears=model.linears, names=family.NAMES)
    return reference.io(source), model, ln_tuning.load(folder, params, **given), given


def test_there_is_one(golden):
    reference.need(FOLDERS, "LN_TUNING")


@each
def test_logits_loss_and_gradients(folder):
    inputs, model, weights, given = load(folder)
    batch = reference.batch_of(inputs["input_ids"], inputs["attention_mask"])
    ours = reference.evaluate(model, "model", {"model": weights, "adapters": None}, batch)
    io, seen = reference.io(folder), batch["segments"] > 0
    for name in io.keys() & {"logits", "merged_logits"}:
        np.testing.assert_allclose(ours["logits"][seen], io[name][seen], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours["loss"], io["loss"], rtol=1e-5, atol=1e-5)
    places = {ln_tuning.key(norm): norm for norm in ln_tuning.norms(weights, **given)}
    wanted = {key.removeprefix("grad/"): g for key, g in io.items() if key.startswith("grad/")}
    reference.need(wanted, "gradients of norms")
    for key, gradient in wanted.items():
        got = tree.paths(ours["grads"])[places[key].path]
        got = got if places[key].layer is None else got[places[key].layer]
        near_zero = 2e-4 * np.abs(gradient).max()
        np.testing.assert_allclose(got, gradient, rtol=1e-3, atol=near_zero, err_msg=key)


@each
def test_in_out_in(folder, tmp_path):
    _, _, weights, given = load(folder)
    config = reference.read(folder / peft.CONFIG)
    before = load_file(folder / peft.WEIGHTS)
    found = ln_tuning.norms(weights, **given)
    paths = {norm.path for norm in found if ln_tuning.key(norm) in before}
    base = config["base_model_name_or_path"]
    ln_tuning.save(tmp_path / "out", weights, where=paths, base_model=base, **given)
    after = load_file(tmp_path / "out" / peft.WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, err_msg=name)
    written = reference.read(tmp_path / "out" / peft.CONFIG)
    assert written.keys() == config.keys()
    assert sorted(written["target_modules"]) == sorted(config["target_modules"])
    again = ln_tuning.load(tmp_path / "out", weights, **given)
    jax.tree.map(np.testing.assert_array_equal, again, weights)


@each
def test_adapters_of_another_kind_are_refused(folder):
    _, _, weights, given = load(folder)
    others = [f for f in reference.adapter_folders() if f not in FOLDERS]
    reference.need(others, "adapter of another kind")
    with pytest.raises(ValueError, match=r"got peft_type=.*; expected 'LN_TUNING'"):
        ln_tuning.load(others[0], weights, **given)
    with pytest.raises(ValueError, match=r"got peft_type='LN_TUNING'"):
        peft.load(folder, **given)
