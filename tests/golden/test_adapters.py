"""Adapters in PEFT's files: what they compute, their gradients, and the way back to disk.

Every folder under adapters/ is a case of the method that its `peft_type` names; those of norms
alone are in `test_ln_tuning`.
"""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import base_modules as whole
from ftjax.adapters.peft import io as peft
from ftjax.adapters.peft import ln_tuning
from ftjax.core import tree
from ftjax.models.hf import checkpoint
from tests.golden import reference


def base_of(folder):
    name = reference.read(folder / peft.CONFIG)["base_model_name_or_path"]
    return reference.folder() / name


def type_of(folder):
    return reference.read(folder / peft.CONFIG)["peft_type"]


ALL = reference.adapter_folders()
FOLDERS = [folder for folder in ALL if type_of(folder) in peft.formats()]
OF_NORMS = [folder for folder in ALL if type_of(folder) == ln_tuning.LnTuning.peft_type]
WITH_GRADIENTS = [
    folder for folder in FOLDERS
    if (folder / "io.npz").is_file() and any(k.startswith("grad/") for k in reference.io(folder))
]  # fmt: skip
DISPLACED = [folder for folder in FOLDERS if (folder / "converted").is_dir()]
SAME_FILES = [folder for folder in FOLDERS if folder not in DISPLACED]
MERGED = [f for f in FOLDERS if all(kind.MERGES for kind in peft.settings_of(f).method.kinds)]
UNMERGED = [folder for folder in FOLDERS if folder not in MERGED]
WITH_SAVED = [folder for folder in FOLDERS if peft.settings_of(folder).saved]
each = pytest.mark.parametrize("folder", FOLDERS, ids=reference.id_of)


def load(folder):
    family, model, params = reference.base(base_of(folder))
    adapters, weights = peft.load_onto(folder, params, linears=model.linears, names=family.NAMES)
    return model, {"model": weights, "adapters": adapters}


def logits_of(folder):
    """Reference logits: in the folder itself, or under its name in the one above."""
    if (folder / "io.npz").is_file():
        return reference.io(folder)["logits"]
    above = reference.io(folder.parent)
    keys = [f"{folder.name}_logits", f"logits/{folder.name}"]
    return next(above[key] for key in keys if key in above)


def evaluate(folder):
    model, params = load(folder)
    io = reference.io(base_of(folder))
    batch = reference.batch_of(io["input_ids"], io["attention_mask"])
    return batch["segments"] > 0, reference.evaluate(model, "adapters", params, batch)


class Results(dict):
    """What `evaluate` gives of each folder, computed when it is first asked for."""

    def __missing__(self, folder):
        self[folder] = evaluate(folder)
        return self[folder]


@pytest.fixture(scope="module")
def results(golden):
    return Results()


def test_every_folder_is_a_case(golden):
    assert FOLDERS
    assert len(FOLDERS) + len(OF_NORMS) == len(list(golden.glob(f"adapters/**/{peft.CONFIG}")))


@each
def test_logits(folder, results):
    seen, ours = results[folder]
    wanted = logits_of(folder)
    np.testing.assert_allclose(ours["logits"][seen], wanted[seen], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("folder", UNMERGED, ids=reference.id_of)
def test_what_changes_no_weight_does_not_merge(folder):
    model, params = load(folder)
    with pytest.raises(ValueError, match="has to stay an adapter"):
        protocol.merge(params["model"], params["adapters"], model.linears)
    assert "merged_logits" not in reference.io(folder)


@pytest.mark.parametrize("folder", MERGED, ids=reference.id_of)
def test_merged_logits_and_weights(folder, results):
    seen = results[folder][0]
    model, params = load(folder)
    merged = protocol.merge(params["model"], params["adapters"], model.linears)
    io = reference.io(base_of(folder))
    batch = reference.batch_of(io["input_ids"], io["attention_mask"])
    x = model.hidden(
        merged, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segments"]
    )
    wanted = logits_of(folder)
    if (folder / "io.npz").is_file():
        wanted = reference.io(folder).get("merged_logits", wanted)
    logits = np.asarray(model.logits(merged, x))
    np.testing.assert_allclose(logits[seen], wanted[seen], rtol=1e-4, atol=2e-4)
    if (folder / "merged_weights.safetensors").is_file():
        check_merged_weights(folder, model, merged)


def check_merged_weights(folder, model, merged):
    stored = checkpoint.stored(model, reference.base(base_of(folder))[0].NAMES)
    arrays = {path: np.asarray(leaf) for path, leaf in tree.paths(merged).items()}
    ours = {
        name: s.layout.to_torch(arrays[path][index])
        for path, s in stored.items()
        for index, name in s.names()
    }
    wanted = load_file(folder / "merged_weights.safetensors")
    assert wanted
    for name, weight in wanted.items():
        np.testing.assert_allclose(ours[name], weight, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("folder", WITH_GRADIENTS, ids=reference.id_of)
def test_loss_and_gradients(folder, results):
    io, ours = reference.io(folder), results[folder][1]
    np.testing.assert_allclose(ours["loss"], io["loss"], rtol=1e-5, atol=1e-5)
    wanted = {key.removeprefix("grad/"): g for key, g in io.items() if key.startswith("grad/")}
    got = by_tensor(folder, ours["grads"]) | whole_gradients(folder)
    for name, gradient in wanted.items():
        own = np.array(got[name if name in got else name.removesuffix(".weight")])
        real = tuple(slice(size) for size in gradient.shape)
        near_zero = 2e-4 * np.abs(gradient).max()
        np.testing.assert_allclose(own[real], gradient, rtol=1e-3, atol=near_zero, err_msg=name)
        own[real] = 0
        assert not own.any(), f"{name}: padding of ranks has a gradient"


def whole_gradients(folder):
    """Compute the gradients of the modules that train whole, by tensor."""
    family, model, _ = reference.base(base_of(folder))
    io, (_, params) = reference.io(base_of(folder)), load(folder)
    chosen = whole.named(
        peft.settings_of(folder).saved, whole.tensors(params["model"], model.linears, family.NAMES)
    )
    if not chosen:
        return {}
    batch = reference.batch_of(io["input_ids"], io["attention_mask"])
    found = tree.paths(reference.evaluate(model, "model", params, batch)["grads"])
    return {t.key: t.to_torch(found[t.path]) for t in chosen}


def by_tensor(folder, adapters):
    """Name and shape the arrays of an adapter tree as PEFT does, without finding true ranks."""
    family, model, _ = reference.base(base_of(folder))
    settings, found = peft.settings_of(folder), protocol.sites(adapters)
    result = dict(settings.method.to_torch_once(found))
    for m in settings.targeted(peft.modules(model.linears, family.NAMES)):
        own = peft.of_layer(found[m.path], m.layer)
        result |= {m.key(s): tensor for s, tensor in settings.method.to_torch(m, own).items()}
    return result


@pytest.mark.parametrize("folder", SAME_FILES, ids=reference.id_of)
def test_in_out_in(folder, tmp_path):
    family, model, _ = reference.base(base_of(folder))
    _, params = load(folder)
    config, settings = reference.read(folder / peft.CONFIG), peft.settings_of(folder)
    candidates = whole.tensors(params["model"], model.linears, family.NAMES)
    peft.save(
        tmp_path / "out", params["adapters"], linears=model.linears, names=family.NAMES,
        base_model=config["base_model_name_or_path"], hyper=settings.hyper,
        weights=params["model"], trained={t.path for t in whole.named(settings.saved, candidates)},
    )  # fmt: skip
    before, after = (load_file(f / peft.WEIGHTS) for f in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, err_msg=name)
    written = reference.read(tmp_path / "out" / peft.CONFIG)
    assert written.keys() <= config.keys()
    patterns = {"rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"}
    simple = not config.get("rank_pattern")
    for key in written.keys() - patterns:
        if simple or key not in ("r", "lora_alpha"):
            assert written[key] == config[key], key
    assert meaning(folder, model, family) == meaning(tmp_path / "out", model, family)
    start = reference.base(base_of(folder))[2]
    own = dict(linears=model.linears, names=family.NAMES)
    again = peft.load_onto(tmp_path / "out", start, **own)
    jax.tree.map(np.testing.assert_array_equal, again, (params["adapters"], params["model"]))


@pytest.mark.parametrize("folder", WITH_SAVED, ids=reference.id_of)
def test_an_adapter_with_weights_beside_it_is_no_adapter_alone(folder):
    family, model, params = reference.base(base_of(folder))
    with pytest.raises(ValueError, match=r"got modules_to_save=.*read both with `load_onto`"):
        peft.load(folder, linears=model.linears, names=family.NAMES, weights=params)


@pytest.mark.parametrize("folder", DISPLACED, ids=reference.id_of)
def test_a_displaced_start_goes_out_as_a_plain_lora(folder, tmp_path):
    family, model, base_weights = reference.base(base_of(folder))
    _, params = load(folder)
    peft.save(
        tmp_path / "out", params["adapters"], linears=model.linears, names=family.NAMES,
        base_model=None, hyper=peft.settings_of(folder).hyper,
    )  # fmt: skip
    ours, wanted = (delta_weights(f) for f in (tmp_path / "out", folder / "converted"))
    assert ours.keys() == wanted.keys()
    for name, weight in wanted.items():  # the factors' signs are free: the product tells
        np.testing.assert_allclose(ours[name], weight, rtol=1e-4, atol=1e-5, err_msg=name)
    settings, other = (peft.settings_of(f) for f in (tmp_path / "out", folder / "converted"))
    assert settings.hyper == other.hyper
    check_residual(folder, model, base_weights, params["adapters"])


def delta_weights(folder):
    """Multiply B and A of every module."""
    tensors = load_file(folder / peft.WEIGHTS)
    b_of = lambda name: tensors[name.replace(".lora_A.", ".lora_B.")]
    return {name: b_of(name) @ a for name, a in tensors.items() if ".lora_A." in name}


def check_residual(folder, model, weights, adapters):
    """Without a and b there is the base that PEFT trains such an adapter on."""
    start = lambda x: dataclasses.replace(x, a=0 * x.a)
    found = {path: start(adapter) for path, adapter in protocol.sites(adapters).items()}
    residual = {}
    for path, adapter in found.items():
        protocol.insert(residual, path, adapter)
    merged = tree.paths(protocol.merge(weights, residual, model.linears))
    wanted, names = (
        load_file(folder / "residual_base.safetensors"),
        reference.base(base_of(folder))[0].NAMES,
    )
    for path in found:
        plan = checkpoint.stored(model, names)[path]
        for index, name in plan.names():
            ours = plan.layout.to_torch(np.asarray(merged[path][index]))
            np.testing.assert_allclose(ours, wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


def meaning(folder, model, family):
    """List the modules that settings adapt, and the shapes of their tensors."""
    settings = peft.settings_of(folder)
    chosen = settings.targeted(peft.modules(model.linears, family.NAMES))
    return {m.name: settings.method.shapes(m, settings.hyper) for m in chosen}
