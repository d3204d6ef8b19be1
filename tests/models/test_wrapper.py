"""Multimodal checkpoints read as their text models."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ftjax.models.families import gemma3, gemma3_text, mistral3
from ftjax.models.hf import checkpoint


def test_the_wrapper_ties_and_keeps_its_other_keys():
    example = gemma3.EXAMPLE | {"tie_word_embeddings": False, "vision_config": {"depth": 3}}
    config = gemma3.from_hf(example)
    assert not config.tied
    written = gemma3.to_hf(config)
    assert written["vision_config"] == {"depth": 3}
    assert written["mm_tokens_per_image"] == 4
    assert gemma3.from_hf(written) == config
    other = gemma3.from_hf(example | {"vision_config": {"layers": 3}})
    assert other == config  # which says nothing of the text model


def test_what_is_no_wrapper_is_refused():
    with pytest.raises(ValueError, match="got text_config=None; expected the text model's config"):
        gemma3.from_hf({"model_type": "gemma3"})
    text = {"model_type": "bert"}
    with pytest.raises(ValueError, match=r"model_type='bert'; expected one of .*'ministral3'"):
        mistral3.from_hf({"model_type": "mistral3", "text_config": text})


def test_vision_tensors_stay_and_go_along(tmp_path):
    config = gemma3.from_hf(gemma3.EXAMPLE)
    model = gemma3.make(config)
    params = model.init(jax.random.key(0))
    checkpoint.save(tmp_path / "plain", params, family=gemma3, config=config)
    weights = tmp_path / "plain" / checkpoint.WEIGHTS
    names = set(load_file(weights))
    assert names
    assert all(name.startswith("language_model.") for name in names)
    vision = {"vision_tower.patch.weight": np.arange(6, dtype=np.float16).reshape(2, 3)}
    save_file(load_file(weights) | vision, weights)
    again = checkpoint.load(tmp_path / "plain", model, names=gemma3.NAMES)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    options = dict(family=gemma3, config=config, source=tmp_path / "plain")
    checkpoint.save(tmp_path / "out", params, **options)
    found = load_file(tmp_path / "out" / checkpoint.WEIGHTS)
    assert set(found) == names | vision.keys()
    np.testing.assert_array_equal(found[next(iter(vision))], next(iter(vision.values())))


def test_a_text_model_does_not_take_a_vision_tower(tmp_path):
    config = gemma3_text.from_hf(gemma3_text.EXAMPLE)
    model = gemma3_text.make(config)
    checkpoint.save(
        tmp_path / "m", model.init(jax.random.key(0)), family=gemma3_text, config=config
    )
    weights = tmp_path / "m" / checkpoint.WEIGHTS
    save_file(load_file(weights) | {"vision_tower.w": np.zeros(2, np.float32)}, weights)
    with pytest.raises(ValueError, match=r"unexpected vision_tower\.w"):
        checkpoint.load(tmp_path / "m", model, names=gemma3_text.NAMES)
