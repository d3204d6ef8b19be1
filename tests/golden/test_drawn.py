"""What PEFT draws from a seed rather than saving it: VeRA's projections, FourierFT's positions."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ftjax.adapters import fourierft
from ftjax.adapters.peft import io as peft
from ftjax.adapters.peft import vera as peft_vera
from tests.golden import reference


def folders(peft_type):
    configs = {f: reference.read(f / peft.CONFIG) for f in reference.adapter_folders()}
    return [folder for folder, config in configs.items() if config["peft_type"] == peft_type]


@pytest.mark.parametrize("folder", folders("FOURIERFT"), ids=reference.id_of)
def test_positions(folder):
    config, io = reference.read(folder / peft.CONFIG), reference.io(folder)
    source = reference.folder() / config["base_model_name_or_path"]
    weights = reference.tensors(source)
    wanted = {k: v for k, v in io.items() if k.startswith("fourierft_indices/")}
    assert wanted
    for key, indices in wanted.items():
        shape = weights[key.partition("/")[2].removeprefix("base_model.model.") + ".weight"].shape
        ours = fourierft.positions(*shape, indices.shape[1], config["random_loc_seed"])
        np.testing.assert_array_equal(ours, indices, err_msg=key)


@pytest.mark.parametrize("folder", folders("VERA"), ids=reference.id_of)
def test_projections_that_are_not_in_the_file(folder, tmp_path):
    config, tensors = reference.read(folder / peft.CONFIG), load_file(folder / peft.WEIGHTS)
    family, model, _ = reference.base(reference.folder() / config["base_model_name_or_path"])
    few = {key: value for key, value in tensors.items() if key not in (peft_vera.A, peft_vera.B)}
    assert len(few) == len(tensors) - 2
    save_file(few, tmp_path / peft.WEIGHTS)
    (tmp_path / peft.CONFIG).write_text(json.dumps(config | {"save_projection": False}))
    given = dict(linears=model.linears, names=family.NAMES)
    whole, drawn = (peft.load(directory, **given) for directory in (folder, tmp_path))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    jax.tree.map(close, drawn, whole)
